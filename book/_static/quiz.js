// Answers <course-quiz>: says whether the chosen option is right, and why.
customElements.define("course-quiz", class extends HTMLElement {
  connectedCallback() {
    for (const question of this.querySelectorAll("fieldset")) {
      const verdict = question.querySelector(".course-verdict");
      const say = (kind, lead, why) => {
        verdict.className = `course-verdict ${kind}`;
        verdict.innerHTML = `<strong>${lead}</strong> `;
        if (why) verdict.append(why.content.cloneNode(true));
      };
      question.querySelector("button").addEventListener("click", () => {
        const chosen = question.querySelector("input:checked");
        if (!chosen) return say("", "Choose an answer first.");
        const right = chosen.hasAttribute("data-right");
        say(right ? "right" : "wrong", right ? "Right." : "Not quite.",
          chosen.closest(".course-option").querySelector("template"));
      });
      question.addEventListener("change", () => say("", ""));
    }
  }
});
