// Brings <course-explore> to life: the frames were drawn when the book was built, this puts their pieces together.
customElements.define("course-explore", class extends HTMLElement {
  connectedCallback() {
    const { texts } = JSON.parse(this.querySelector("script").textContent);
    const name = this.dataset.frames.match(/(\w+)\.js$/)[1];
    const picture = this.querySelector(".course-figure");
    const live = this.querySelector(".course-live");
    const inputs = [...this.querySelectorAll("input")];
    let announcement, asked, moved = false;
    const show = (spoken) => {
      inputs.forEach((input, i) => {
        const text = texts[i][input.value];
        input.setAttribute("aria-valuetext", text);
        input.closest(".course-slider").querySelector(".course-state").textContent = text;
      });
      const data = window.courseFrames?.[name];
      if (!data) return ask(moved = true); // shown when they come
      const frame = inputs.reduce((index, input, i) => index * texts[i].length + Number(input.value), 0);
      picture.innerHTML = data.frames[frame].map((piece) => data.pieces[piece]).join("");
      picture.setAttribute("aria-label", data.alts[frame]);
      // Spoken when the hand rests, or a fast move would queue up every description on its way.
      clearTimeout(announcement);
      live.classList.add("course-live");
      if (spoken) announcement = setTimeout(() => { live.textContent = data.alts[frame]; }, 400);
    };
    // The frames are a script of their own: the page does not wait for them, and they come from a folder as well.
    const ask = () => {
      asked ??= Object.assign(document.createElement("script"), {
        src: this.dataset.frames,
        onload: () => { if (moved) show(true); },
        onerror: () => {
          asked.remove();
          asked = null;
          live.classList.remove("course-live"); // for everyone to see
          live.textContent = "The pictures did not come. Move again to ask once more.";
        },
      });
      if (!asked.isConnected) document.head.append(asked);
    };
    inputs.forEach((input) => input.addEventListener("input", () => show(true)));
    if (inputs.some((input) => input.value !== input.defaultValue)) show(false);
    if (document.readyState === "complete") ask();
    else window.addEventListener("load", () => setTimeout(ask));
  }
});
