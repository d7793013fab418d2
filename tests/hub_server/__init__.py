"""A Hub on loopback, for tests: what ``huggingface_hub``, ``datasets`` and ``peft`` ask of huggingface.co; faults.

``HubServer`` speaks the Hub's HTTP API as far as these clients use it; ``Store`` holds the repositories, ``Fault``
breaks a request on purpose, and the journal remembers every request.
"""

from hub_server.server import Fault, HubServer, Request
from hub_server.store import Repository, Store, User
from hub_server.xet import XetStorage

__all__ = ["Fault", "HubServer", "Repository", "Request", "Store", "User", "XetStorage"]
