"""The helper: one program that is sent to a host and stays there for the session, and our side of it.

`text` puts the program together, `transport` says how it is started (here, or over ssh), `connection` is one running
helper, `session` keeps one and makes it anew when it has broken. `program/` is what runs on the host: it imports
nothing of blockferry but itself, and needs python3 from 3.9 on with its standard library. No file is left on the host.

The protocol is JSON, one object a line:

- to the helper: `{"id": 7, "do": "files.stat", "with": {...}}`, a call; `{"ping": 3}`;
- `{"to": 7, "line": ...}`, an order for a process that call 7 started; `"close"`: no more of them; `"kill"`: end it;
- from it: `{"hello": ...}` once; `{"pong": 3}`; `{"id": 7, "result": ...}`, or `{"id": 7, "error": {"errno": 2,
  "name": "ENOENT", "path": ..., "words": ...}}`, in any order; before it `{"id": 7, "out": ...}`, a process's output.

Names of files are strings in which bytes that are no UTF-8 stand as surrogates (PEP 383); other bytes are base64.
"""
