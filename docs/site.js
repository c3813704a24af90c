// What the theme makes of tables and code in the browser, for those who use a keyboard or listen.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    // A table that is wider than its place can be scrolled by keyboard; others are no stop of the Tab key.
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
new MutationObserver(() => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) sizes.observe(table);
  // The button of a code block is no navigation of the page.
  for (const nav of document.querySelectorAll(".md-code__nav")) nav.role = "none";
}).observe(document.body, { childList: true, subtree: true });
