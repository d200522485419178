// Reads one JSON request {tex, display, macros} a line, answers one JSON line {html} or {error}.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
const katex = createRequire(import.meta.url)("./vendor/katex/katex.min.js");
for await (const line of createInterface({ input: process.stdin })) {
  const { tex, display, macros } = JSON.parse(line);
  let answer;
  try {
    const options = { displayMode: display, macros, strict: "ignore", trust: false };
    answer = { html: katex.renderToString(tex, options) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
