// A page that loads lays out what is in sight; now comes the rest, before anybody scrolls or takes a picture of the page.
window.addEventListener("load", () => setTimeout(() => {
  const asked = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const place = asked && asked.getBoundingClientRect().top;
  document.documentElement.dataset.courseDrawn = "";
  if (asked && place >= 0 && place < innerHeight) scrollBy({ top: asked.getBoundingClientRect().top - place, behavior: "instant" });
}));
// Whatever scrolls sideways can be reached and scrolled by keyboard. (What is not laid out has no width: this comes second.)
{
  const scrollers = () => [...document.querySelectorAll(".katex-display, .course-table, .pst-scrollable-table-container")];
  const mark = () => {
    // All are asked before one is marked, or each answer costs a layout.
    const wide = scrollers().map((box) => [box, box.scrollWidth > box.clientWidth + 1]);
    for (const [box, scrolls] of wide) {
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", () => setTimeout(mark));
  window.addEventListener("resize", mark);
  document.fonts?.ready.then(mark);
}
// What a page can be read without comes when it has loaded: tips of buttons, the contents that follow, buttons to copy.
{
  const late = document.currentScript.dataset.late;
  const spy = () => document.querySelectorAll("[data-bs-spy=scroll]").forEach((box) => window.bootstrap?.ScrollSpy.getOrCreateInstance(box));
  const ask = () => document.body.append(Object.assign(document.createElement("script"), { src: late, onload: spy }));
  if (late) window.addEventListener("load", () => setTimeout(ask));
}
