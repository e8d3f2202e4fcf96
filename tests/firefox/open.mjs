// node open.mjs FIREFOX URL EXPRESSION
// Opens URL in a headless Firefox, waits until EXPRESSION is true there and
// prints the page's `heard` as one line of JSON.
import {createRequire} from 'node:module';

const require = createRequire(new URL('../js/', import.meta.url));
const puppeteer = require('puppeteer-core');

const [executablePath, url, expression] = process.argv.slice(2);
const browser = await puppeteer.launch(
  {browser: 'firefox', executablePath, headless: true});
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error('page:', error.message));
  await page.goto(url);
  await page.waitForFunction(expression, {timeout: 15000});
  console.log(JSON.stringify(await page.evaluate(() => window.heard)));
} finally {
  await browser.close();
}
