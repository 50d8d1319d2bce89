// Reads {cards: [...], texts: [...]} from standard input. Says of each card what Microsoft's parser has against it, and
// of each text what somebody sees whose client reads it as markdown; null where it is more than words.
"use strict";

const { AdaptiveCard, SerializationContext, Version } = require("adaptivecards/dist/adaptivecards.js");
const { isDeepStrictEqual } = require("node:util");
const markdown = require("markdown-it")();

function problems(json) {
    const context = new SerializationContext(new Version(1, 4));
    const card = new AdaptiveCard();
    card.parse(json, context);
    const parsed = Array.from({ length: context.eventCount }, (_, place) => context.getEventAt(place).message);
    const invalid = card.validateProperties().validationEvents.map((event) => event.message);
    // What it does not know it leaves out. `msteams` is read by Teams itself.
    const { msteams, ...own } = json;
    const kept = isDeepStrictEqual(JSON.parse(JSON.stringify(card.toJSON())), own);
    return [...parsed, ...invalid, ...(kept ? [] : [`it only took ${JSON.stringify(card.toJSON())}`])];
}

function seen(text) {
    const blocks = markdown.parse(text, {});
    const words = blocks.length === 3 && blocks[0].type === "paragraph_open" ? blocks[1].children : [];
    const isPlain = words.length > 0 && words.every(({ type }) => type === "text" || type === "text_special");
    return isPlain ? words.map(({ content }) => content).join("") : null;
}

let input = "";
process.stdin.on("data", (part) => (input += part));
process.stdin.on("end", () => {
    const { cards, texts } = JSON.parse(input);
    console.log(JSON.stringify({ problems: cards.map(problems), seen: texts.map(seen) }));
});
