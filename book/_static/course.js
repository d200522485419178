// A page that loads lays out what is in sight; now comes the rest, before anybody scrolls or takes a picture of the page.
window.addEventListener("load", () => setTimeout(() => {
  const asked = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const place = asked && asked.getBoundingClientRect().top;
  document.documentElement.dataset.courseDrawn = "";
  if (asked && place >= 0 && place < innerHeight) scrollBy({ top: asked.getBoundingClientRect().top - place, behavior: "instant" });
}));
// An equation that is a little too wide is set smaller, and whatever still scrolls sideways can be reached and scrolled by
// keyboard. (What is not laid out has no width: this comes second.)
{
  const scrollers = () => [...document.querySelectorAll(".katex-display, .course-table, .pst-scrollable-table-container")];
  const smallest = 0.75;
  const mark = () => {
    // All are asked before one is changed, or each answer costs a layout.
    const equations = [...document.querySelectorAll(".katex-display")];
    for (const box of equations) box.style.fontSize = "";
    const shares = equations.map((box) => box.clientWidth / box.scrollWidth);
    shares.forEach((share, i) => { if (share < 1 && share >= smallest) equations[i].style.fontSize = `${0.99 * share}em`; });
    const wide = scrollers().map((box) => [box, box.scrollWidth > box.clientWidth + 1]);
    for (const [box, scrolls] of wide) {
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", () => setTimeout(() => document.fonts.ready.then(mark)));
  window.addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true); // what was folded has had no width
}
// What a page can be read without comes when it has loaded: tips of buttons, the contents that follow, buttons to copy.
{
  const late = document.currentScript.dataset.late;
  const spy = () => document.querySelectorAll("[data-bs-spy=scroll]").forEach((box) => window.bootstrap?.ScrollSpy.getOrCreateInstance(box));
  const ask = () => document.body.append(Object.assign(document.createElement("script"), { src: late, onload: spy }));
  if (late) window.addEventListener("load", () => setTimeout(ask));
}
