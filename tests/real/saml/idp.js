// A SAML identity provider on samlp, which signs the user in whom `?user=` of the page names.
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

app.get(
  "/samlp",
  samlp.auth({
    issuer,
    key,
    cert,
    recipient: acs,
    destination: acs,
    getPostURL: (audience, document, request, callback) => callback(null, acs),
    getUserFromRequest: () => user,
  }),
);
app.get("/metadata", samlp.metadata({ issuer, cert, endpointPath: "/samlp", redirectEndpointPath: "/samlp" }));

const server = app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
