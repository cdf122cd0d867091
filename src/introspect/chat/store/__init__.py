"""Chat responses on disk: what was answered once is never asked again.

A response is filed under the content of its request and the identity of the model, so a changed prompt, template,
weight, sampling setting or seed never meets an old answer, and is on disk before it is looked at.
"""

from introspect.chat.store.answering import answer
from introspect.chat.store.database import Failure, ResponseStore, request_key

__all__ = ["Failure", "ResponseStore", "answer", "request_key"]
