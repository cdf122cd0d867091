"""Chat responses on disk: no request is sent twice.

The key of a response is the content of its request and the identity of the model, so a changed prompt, template,
weight, sampling setting or seed never gets an old response. A response is on disk before any other code reads it.
"""

from introspect.chat.store.answering import answer
from introspect.chat.store.database import Failure, ResponseStore, request_key

__all__ = ["Failure", "ResponseStore", "answer", "request_key"]
