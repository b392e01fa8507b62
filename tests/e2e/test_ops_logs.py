"""A whole small run with secrets planted wherever a line of the log could take them from: none is in any line.

The run is real: keys, agents, driver, and a model that trains on the notes. Careless code is added to it: an error that
quotes a note, a library that logs one, an event that carries a key and a packet. A log that writes down what it is
given is the control, and everything planted is found in it.
"""

import base64
import json
import logging
import re

import pytest

from fedsec.ops.operations import Operations, together
from fedsec_secure.errors import ConfigError
from tests.e2e.federation import Federation, Keys, make_plan, tiny_examples, tiny_work

NOTE = "took drug"
"""Stands in every note of `tiny_examples`."""
MARKER = "Mrs Planted-Name of Ward 3"


class Events(list):
    """What the coordinator's parts report, to a watcher as well."""

    def __init__(self, watcher):
        super().__init__()
        self.watcher = watcher

    def append(self, event):
        super().append(event)
        self.watcher(event)


class Careless:
    """A site's agent with bugs that only a log could make worse."""

    def __init__(self, site, agent, key, notes, watcher, bodies):
        self.site, self.agent, self.key, self.notes, self.watcher, self.bodies = (
            site,
            agent,
            key,
            notes,
            watcher,
            bodies,
        )

    def handle(self, exchange, body):
        self.bodies.append(body)
        logging.getLogger("transformers.generation").warning("tokens of %s", self.notes)
        logging.getLogger("nvflare.cell").warning("sent %s", body.hex())
        logging.getLogger("peft").warning(f"{MARKER} {self.key.hex()}")
        self.watcher({"event": "debug", "key": self.key.hex(), "body": body, "note": self.notes, "step": 3})
        self.watcher({"event": "not-ready", "reason": f"key {self.key.hex()} in /srv/{self.site}/site.key"})
        if exchange == "confirm" and self.site == "site-d":
            raise ConfigError(f"/srv/ward-3/notes.jsonl, line 2: {self.notes}")
        reply = self.agent.handle(exchange, body)
        self.bodies.append(reply if isinstance(reply, bytes) else reply.read_bytes())
        return reply


class Naive:
    """The control: one JSON object a line with all that it is given."""

    def __init__(self):
        self.lines = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.lines.append(json.dumps(record.getMessage()))

    def __call__(self, event):
        shown = {k: v.hex() if isinstance(v, bytes) else v for k, v in event.items()}
        self.lines.append(json.dumps(shown, default=str))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Lines of the log and of the control, and what was planted."""
    folder = tmp_path_factory.mktemp("run")
    keys, naive, bodies = Keys.generate(5), Naive(), []
    seeds = {n: k._key.private_bytes_raw() for n, k in {**keys.sites, "coordinator": keys.coordinator}.items()}
    notes = {n: tiny_examples(n, 6)[0].prompt for n in keys.sites}
    assert all(NOTE in note for note in notes.values())
    path = folder / "logs" / "fedsec.jsonl"
    with Operations("coordinator", run="run-1", sites=keys.sites, log=path) as operations:
        logging.getLogger().addHandler(naive.handler)
        watcher = together(naive, operations)

        def wrap(site, agent):
            agent.progress = watcher
            return operations.watch(Careless(site, agent, seeds[site], notes[site], watcher, bodies))

        with Federation(
            folder / "fed",
            keys,
            make_plan(keys, rounds=2),
            work=lambda name, plan: tiny_work(name, plan, progress=watcher),
            wrap=wrap,
            events=Events(watcher),
        ) as federation:
            federation.run()
    return path.read_text().splitlines(), naive.lines, seeds, bodies, folder


def texts(logged):
    lines, naive, *_ = logged
    return {"log": "\n".join(lines), "control": "\n".join(naive)}


def pieces(secret):
    """Forms that a secret may have in text, whole and in part."""
    return {secret.hex(), secret.hex()[:16], base64.b64encode(secret).decode()[:16], repr(secret)[2:-1]}


def in_packets(text, bodies, known):
    """Runs of 16 characters or more that are part of a packet, as hex or base64; digests that are known aside."""
    runs = {run for run in re.findall(r"[A-Za-z0-9+/=]{16,}", text) if run not in known}
    packed = [body.hex() for body in bodies] + [base64.b64encode(body).decode() for body in bodies]
    return {run for run in runs if any(run in one for one in packed)}


def test_the_run_was_whole_and_its_log_says_what_operates_it(logged):
    events = [json.loads(line) for line in logged[0]]
    assert sum(e["event"] == "round" for e in events) == 2
    assert {"train", "share", "mask", "confirm", "unmask", "verdict"} <= {
        e["exchange"] for e in events if e["event"] == "exchange"
    }
    assert {"site-d": "ConfigError"} in [e.get("lost") for e in events if e["event"] == "exchange"]
    assert {e["run"] for e in events} == {"run-1"}


def test_no_line_holds_a_key(logged):
    found = {
        where: any(p in text for s in logged[2].values() for p in pieces(s)) for where, text in texts(logged).items()
    }
    assert found == {"log": False, "control": True}


@pytest.mark.parametrize("words", [NOTE, MARKER, "Planted", "/srv/", "notes.jsonl", "ward-3"])
def test_no_line_holds_notes_or_where_they_are(logged, words):
    assert {where: words in text for where, text in texts(logged).items()} == {"log": False, "control": True}


def test_no_line_holds_packets(logged):
    known = {json.loads(line).get("adapter") for line in logged[0]}
    found = {where: bool(in_packets(text, logged[3], known)) for where, text in texts(logged).items()}
    assert found == {"log": False, "control": True}


@pytest.mark.parametrize("field", ["loss", "step", "steps", "weights", "key", "body", "note"])
def test_no_line_has_a_field_that_tells_about_notes(logged, field):
    assert not any(field in json.loads(line) for line in logged[0])
    assert any(f'"{field}"' in line for line in logged[1])


def test_no_line_names_a_folder_of_this_machine(logged):
    assert str(logged[4]) not in texts(logged)["log"]


def test_every_line_is_ascii_and_bounded(logged):
    assert all(line.isascii() and line.isprintable() and len(line) < 4000 for line in logged[0])
