// The token of an approval link follows the # of its address, which browsers never send. It is removed from
// the address, so that no history keeps it, and sent in the body of the page's form.
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("open").submit();
}
