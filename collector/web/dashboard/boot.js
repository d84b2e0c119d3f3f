// Runs before the first paint, so that the page never flashes in another theme or language.
(() => {
  const root = document.documentElement;
  const asked = new URLSearchParams(location.search).get("lang");
  const stored = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is forbidden: every visit starts from the browser's preferences
    }
  };
  const theme = stored("edgebed.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const wanted = [asked, stored("edgebed.lang"), ...(navigator.languages || [navigator.language])];
  root.lang = wanted.map((tag) => String(tag || "").slice(0, 2)).find((tag) => tag === "ko" || tag === "en") || "en";
  const words = document.createElement("link");
  Object.assign(words, { rel: "modulepreload", href: `static/i18n/${root.lang}.js` });
  document.head.append(words);
})();
