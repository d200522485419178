// Shows the equation, figure caption, source or definition that a link points to, where the reader is, by mouse or by keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector("article.bd-article");
  const box = Object.assign(document.createElement("div"), { className: "course-preview", id: "course-preview", hidden: true });
  box.setAttribute("role", "tooltip");
  article.append(box);
  let shown = null, timer;
  const hide = () => {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  };
  const meant = (name) => {
    const target = document.getElementById(name), elsewhere = document.getElementById(`preview-${name}`);
    if (elsewhere) return elsewhere.content;
    if (target?.matches("dt")) return target.parentElement.querySelector(`#${CSS.escape(name)} ~ dd`);
    return target?.matches(".citation, figure") ? target.querySelector("p") : target?.querySelector(".katex-html")?.closest(".katex");
  };
  const show = (link) => {
    const source = meant(decodeURIComponent(link.hash.slice(1)));
    if (!source) return;
    hide();
    const copy = source.cloneNode(true);
    copy.querySelectorAll("[id]").forEach((element) => element.removeAttribute("id"));
    copy.querySelectorAll("a").forEach((element) => element.replaceWith(...element.childNodes));
    box.replaceChildren(copy);
    box.hidden = false;
    shown = link;
    place();
    link.setAttribute("aria-describedby", box.id);
  };
  const place = () => {
    const at = shown.getBoundingClientRect(), size = box.getBoundingClientRect(), edge = document.documentElement.clientWidth;
    box.style.left = `${Math.max(8, Math.min(at.left, edge - size.width - 8))}px`;
    box.style.top = `${at.bottom + size.height + 8 > innerHeight ? Math.max(8, at.top - size.height - 4) : at.bottom + 4}px`;
  };
  const later = (work, wait) => { clearTimeout(timer); timer = setTimeout(work, wait); };
  for (const link of article.querySelectorAll('a[href^="#equation-"], a[href^="#fig-"], a[href^="#id"], a.reference[href*="#term-"]')) {
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") later(() => show(link), 150); });
    link.addEventListener("pointerleave", () => later(hide, 250)); // time to move onto the box
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", hide);
  }
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", () => later(hide, 250));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", () => { if (shown) place(); }, { passive: true });
});
