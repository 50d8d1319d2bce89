// A SAML identity provider on samlp, which signs one user in. At /tampered it alters what it has signed.
// node idp.js KEY CERTIFICATE ACS; prints its address.
const fs = require("fs");
const express = require("express");
const samlp = require("samlp");

const [key, cert] = process.argv.slice(2, 4).map((name) => fs.readFileSync(name));
const acs = process.argv[4];
const app = express();
const issuer = "urn:samlp";
const user = {
  id: "u-4711",
  emails: [{ value: "ada@example.com" }],
  displayName: "Ada Lovelace",
  name: { givenName: "Ada", familyName: "Lovelace" },
};

const options = {
  issuer,
  key,
  cert,
  recipient: acs,
  destination: acs,
  getPostURL: (audience, document, request, callback) => callback(null, acs),
  getUserFromRequest: () => user,
};
const page = (response, relayState) =>
  `<form method="post" action="${acs}"><input name="SAMLResponse" value="${response.toString("base64")}">
  <input name="RelayState" value="${relayState}"></form><script>document.forms[0].submit()</script>`;

app.get("/", (request, answer) => answer.send("<p>A page of another site.</p>"));
app.get("/samlp", samlp.auth(options));
app.get(
  "/tampered",
  samlp.auth({
    ...options,
    responseHandler: (response, _, request, answer) => {
      const altered = Buffer.from(String(response).replaceAll("ada@example.com", "eve@example.com"));
      answer.send(page(altered, request.query.RelayState));
    },
  }),
);
app.get("/metadata", samlp.metadata({ issuer, cert, endpointPath: "/samlp", redirectEndpointPath: "/samlp" }));

const server = app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
