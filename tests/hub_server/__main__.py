"""``PYTHONPATH=tests python -m hub_server``: a Hub to try publishing on, without an account; it keeps nothing."""

from __future__ import annotations

import time

from hub_server import HubServer, User, XetStorage

TOKEN = "hf_" + "loopback" * 4

with HubServer().running() as hub:
    hub.store.users[TOKEN] = User("me")
    hub.xet = XetStorage()
    print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={TOKEN}", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print(f"{len(hub.journal)} requests; {', '.join(f'{kind} {name}' for kind, name in hub.store.repositories)}")
