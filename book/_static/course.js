// Paper is white: print a page in its light theme, whatever the reader sees it in.
(() => {
  const page = document.documentElement;
  let before;
  window.addEventListener("beforeprint", () => {
    before = page.dataset.theme;
    page.dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => (page.dataset.theme = before));
})();
