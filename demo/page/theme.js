// Light or dark: what the visitor chose last, else what the system says.
// Loaded in <head>, before anything is drawn, so that nothing flashes.
'use strict';
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  let chosen = null;
  try {
    chosen = localStorage.getItem('theme');
  } catch { /* storage may be forbidden: then it is not remembered */ }

  const isDark = () => (chosen ? chosen === 'dark' : dark.matches);

  function show() {
    if (chosen) {
      root.dataset.theme = chosen;
    }
    document.getElementById('theme')
      ?.setAttribute('aria-pressed', String(isDark()));
  }

  show();
  dark.addEventListener('change', show);
  document.addEventListener('DOMContentLoaded', () => {
    show();
    document.getElementById('theme').addEventListener('click', () => {
      chosen = isDark() ? 'light' : 'dark';
      try {
        localStorage.setItem('theme', chosen);
      } catch { /* as above */ }
      show();
    });
  });
})();
