// What Gradio leaves out, for those who hear the page and for those who use the keyboard: names of example pictures, and
// of the place for a picture, whose label does not say what is written there.
() => {
  const label = () => {
    document.querySelectorAll("#examples .gallery-item").forEach((node, i) => {
      if (!node.hasAttribute("aria-label")) node.setAttribute("aria-label", `Example ${i + 1}`);
    });
    // Radio buttons of one group, so that arrow keys go through them and Tab past them.
    ["choice", "detections"].forEach((id) => {
      document.querySelectorAll(`#${id} input[type=radio]`).forEach((node) => {
        if (node.name !== id) node.name = id;
      });
    });
    document.querySelectorAll("#picture button[aria-dropeffect]").forEach((node) => {
      node.removeAttribute("aria-label");
      node.removeAttribute("aria-dropeffect");
    });
  };
  label();
  new MutationObserver(label).observe(document.body, {
    childList: true,
    subtree: true,
    attributeFilter: ["name"],
  });
}
