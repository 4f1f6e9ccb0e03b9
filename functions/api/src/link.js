// The token of an approval link stands behind the # of its address, which browsers send to nobody. It is taken
// out of the address, so that it stays in no history, and sent in the body of the page's form.
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("open").submit();
}
