"""Web page on which people set their password. Links in mails open it: in an invitation, or in a mail for resetting a
password. The page loads nothing from other servers.
"""

import hashlib
from base64 import b64encode

from litestar import Controller, Response, get

from api.http.authentication import PUBLIC

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 10vh auto; padding: 0 1rem; color: #1a1a1a; }
label, input, button { display: block; font: inherit; width: 100%; box-sizing: border-box; }
input { margin: .25rem 0 1rem; padding: .5rem; border: 1px solid #767676; border-radius: 4px; }
button { padding: .6rem; border: 0; border-radius: 4px; color: #fff; background: #0b5cad; }
button:disabled { background: #767676; }
"""
SCRIPT = """
const form = document.querySelector("form"), message = document.getElementById("message");
const [first, second] = form.querySelectorAll("input"), button = form.querySelector("button");
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const show = text => { message.textContent = text; };
if (!token) { form.hidden = true; show("This link is incomplete: open it as you got it, or ask for a new one."); }
form.addEventListener("submit", async event => {
  event.preventDefault();
  if (first.value !== second.value) { show("The two passwords differ."); second.focus(); return; }
  button.disabled = true;
  try {
    const answer = await fetch("api/v3/reset-password/confirm", {
      method: "POST", headers: {"Content-Type": "application/json"},
      body: JSON.stringify({token, new_password: first.value}),
    });
    const body = await answer.json();
    const errors = (body.errors || []).map(error =>
      (error.field === "token" ? "This link " : "This password ") + error.message + ".");
    show(answer.ok ? "Your password is set. Sign in with it." : errors.join(" ") || body.detail);
    form.hidden = answer.ok;
  } catch { show("The server does not answer. Try again."); }
  button.disabled = false;
});
"""
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Set a password - Testhide</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Set a password</h1>
<p id="message" role="status" aria-live="polite"></p>
<form>
<label for="first">New password, 8 characters or more</label>
<input id="first" type="password" autocomplete="new-password" minlength="8" maxlength="1000" required autofocus>
<label for="second">The same password again</label>
<input id="second" type="password" autocomplete="new-password" minlength="8" maxlength="1000" required>
<button>Set the password</button>
</form>
<noscript>This page needs JavaScript: it sends what follows the # in the link.</noscript>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash_of(SCRIPT)}; style-src {_hash_of(STYLE)};"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PasswordPageController(Controller):
    """Web page for people. The OpenAPI description leaves it out, since it is no part of the API."""

    @get("/set-password", opt=PUBLIC, media_type="text/html", include_in_schema=False)
    async def show_password_page(self) -> Response[str]:
        """Returns the page. A script in the page reads the token from the link's fragment, which browsers do not send
        to the server.
        """
        return Response(PAGE, headers={"Content-Security-Policy": POLICY})
