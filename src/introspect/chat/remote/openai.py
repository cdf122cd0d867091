"""The chat model on any OpenAI-compatible server: vLLM, SGLang, Ray Serve, a hosted API."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from introspect.chat.protocol import FINISHED, ChatFailure, ChatModel, ChatRequest, ChatResponse
from introspect.chat.remote.completion import (
    DETAIL,
    Faulty,
    Reply,
    fault_of_status,
    read_reply,
)
from introspect.chat.remote.endpoint import Endpoint, Secret, Server, checked_address, refuse_secrets
from introspect.chat.remote.retry import CONNECTION, TIMEOUT, Breaker, Fault, RetryPolicy, retry_after
from introspect.chat.remote.stream import Stream
from introspect.chat.usage import Price, Usage, UsageCounter
from introspect.core.errors import InputError, one_line
from introspect.core.nested import to_plain
from introspect.core.seeds import derived_seed

if TYPE_CHECKING:
    from introspect.chat.remote.http import Connections, Response

log = logging.getLogger(__name__)

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "seed")
# Bytes; a longer reply is not a chat completion.
_LARGEST_REPLY = 64 * 2**20


class OpenAIChat(ChatModel):
    """A chat model on an OpenAI-compatible server.

    Args:
        model: name of the model at the server; part of the key under which responses are stored.
        base_url: of the API, e.g. `http://127.0.0.1:8000/v1`; None takes that of `server`.
        server: started by the first request, if there is no `base_url`.
        api_key_env: environment variable that holds the key; None sends none.
        api_key: the key itself, from an interpolation; it is never shown or saved.
        concurrency: requests in flight, each on a keep-alive connection of its own.
        sampling_fields: settings of `Sampling` that the server accepts; the others are not sent.
        limit_field: the server's name for the limit of a completion: `max_completion_tokens`, or `max_tokens`.
        context_length: tokens of prompt and completion together that the server allows.
        reasoning_effort: low, medium, high, …, for models that have it.
        chat_template_kwargs: settings of the chat template, for servers that accept them.
        extra_body: further fields of every request.
        variant: anything else that distinguishes these responses, such as a quantisation or a date.
        stream: whether the server streams tokens, for gateways that close idle connections.
        require_reasoning: whether a finished turn without reasoning is a failure.
        require_content: whether a finished turn with nothing but reasoning is a failure and requested again. False for
            a student that is evaluated, whose empty answers are answers.
        require_usage: whether a response without token counts ends the run; if not, its counts are 0, with a warning.
        retry: see `RetryPolicy`.
        price: see `Price`; None counts tokens only.
        max_failure_rate: fraction of the requests in [0, 1] that may fail before the run does.

    Raises:
        InputError: a setting is invalid.
    """

    usage: UsageCounter

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        server: Server | None = None,
        api_key_env: str | None = None,
        api_key: str | None = None,
        concurrency: int = 256,
        sampling_fields: Sequence[str] = SAMPLING_FIELDS,
        limit_field: str = "max_completion_tokens",
        context_length: int | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        variant: str | None = None,
        stream: bool = False,
        require_reasoning: bool = False,
        require_content: bool = True,
        require_usage: bool = False,
        retry: RetryPolicy | None = None,
        price: Price | None = None,
        max_failure_rate: float = 0.01,
    ) -> None:
        if base_url is None and server is None:
            raise InputError(f"{model}: base_url is required: the address of an OpenAI-compatible API, with its /v1")
        if concurrency < 1:
            raise InputError(f"{model}: concurrency is {concurrency}, expected 1 or more")
        if not 0 <= max_failure_rate <= 1:
            raise InputError(f"{model}: max_failure_rate is {max_failure_rate}, expected a share from 0 to 1")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InputError(f"{model}: api_key has characters that no header takes")
        if unknown := set(sampling_fields) - set(SAMPLING_FIELDS):
            raise InputError(f"{model}: sampling_fields has {sorted(unknown)}, expected {', '.join(SAMPLING_FIELDS)}")
        self.model, self.server, self.base_url = model, server, base_url and checked_address(base_url)
        self.concurrency, self.stream, self.max_failure_rate = concurrency, stream, max_failure_rate
        self.starts_server, self.usage = base_url is None, UsageCounter(price)
        self._key_variable, self._key = api_key_env, Secret(api_key) if api_key else None
        self._retry = retry or RetryPolicy()
        self._fields, self._limit_field = tuple(sampling_fields), limit_field
        self._reading = {
            "streamed": stream,
            "needs_reasoning": require_reasoning,
            "needs_content": require_content,
        }
        self._needs_usage = require_usage
        refuse_secrets(f"{model}: extra_body", extra_body)
        # Sent with every request; responses depend on it.
        self._options = {
            **to_plain(extra_body or {}),
            **({"reasoning_effort": reasoning_effort} if reasoning_effort else {}),
            **({"chat_template_kwargs": to_plain(chat_template_kwargs)} if chat_template_kwargs else {}),
        }
        # The server chooses the settings that are not sent, so the responses are others.
        sent = None if {*self._fields} == {*SAMPLING_FIELDS} else ",".join(sorted(self._fields)) or "none"
        bound = None if limit_field == "max_completion_tokens" else limit_field
        self._names = {
            "variant": variant,
            "context_length": context_length,
            "sampling_fields": sent,
            "limit_field": bound,
        }
        self._warned: set[str] = set()

    @classmethod
    def engine(
        cls,
        model: str,
        *,
        name_or_path: str | None = None,
        batch_size: int = 256,
        concurrency: int | None = None,
        **options: Any,
    ) -> OpenAIChat:
        """The engine of a student.

        Args:
            model: name of the model at the server.
            name_or_path: replaces `model`; the argument has this name for all engines.
            batch_size: requests in flight, unless `concurrency` is given.
            concurrency: see `OpenAIChat`.
            options: further arguments of `OpenAIChat`.
        """
        return cls(name_or_path or model, concurrency=batch_size if concurrency is None else concurrency, **options)

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's name and every option that responses depend on; not the address, and no key."""
        named = {name: str(value) for name, value in self._names.items() if value is not None}
        options = {
            name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for name, value in self._options.items()
        }
        return {"model": self.model, "engine": "openai", **named, **options}

    def generate(self, requests: Iterable[ChatRequest]) -> Stream[ChatRequest, ChatResponse | ChatFailure]:
        """Yield one response or failure per request, as each is finished.

        Requests are taken from the iterable as places become free: see `Stream`.

        Raises:
            InputError: the key is missing, the server refuses every request (a wrong key, an unknown model, no
                credit), or it no longer answers.
        """
        endpoint = self._endpoint()
        _allow_sockets(self.concurrency)
        return Stream(requests, partial(self._opened, endpoint), self.concurrency)

    def close(self) -> None:
        """Stop the server if it was started here. The next request starts it again."""
        if self.server is not None:
            self.server.stop()

    def _endpoint(self) -> Endpoint:
        if self.base_url is None:
            assert self.server is not None
            return self.server.start()
        if self._key is not None or self._key_variable is None:
            return Endpoint(self.base_url, self._key)
        key = os.environ.get(self._key_variable, "").strip()
        if not key:
            raise InputError(f"{self.model}: no key in the environment variable {self._key_variable} (api_key_env)")
        return Endpoint(self.base_url, Secret(key))

    @asynccontextmanager
    async def _opened(self, endpoint: Endpoint) -> AsyncIterator[Any]:
        """Connections to the server, and the function that sends a request on them."""
        from introspect.chat.remote.http import Connections

        address = urlsplit(endpoint.base_url)
        url = urlunsplit(address._replace(path=f"{address.path.rstrip('/')}/chat/completions"))
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream" if self.stream else "*/*"}
        if endpoint.key is not None:
            headers["Authorization"] = f"Bearer {endpoint.key.reveal()}"
        place = f"{self.model} at {address.scheme}://{address.netloc}{address.path}"
        async with Connections(url, headers, silence_s=self._retry.timeout_s, largest=_LARGEST_REPLY) as connections:
            yield _Client(self, connections, place, endpoint.key).complete

    def body(self, request: ChatRequest, retry: int = 0) -> bytes:
        """The JSON of a request. `retry` numbers the further draws of one whose response was not usable."""
        sampling = request.sampling
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,  # "all" for vLLM and SGLang
            "seed": draw_seed(sampling.seed, request.sample, retry),
        }
        for name in SAMPLING_FIELDS:
            if name not in self._fields:
                del fields[name]
        if sampling.max_tokens is not None:
            fields[self._limit_field] = sampling.max_tokens
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps({**self._options, **fields}).encode()

    def response(self, request: ChatRequest, reply: Reply) -> ChatResponse:
        """Convert a reply to a response; warn once about token counts that the server does not send.

        Raises:
            InputError: it sends none, and `require_usage` is set.
        """
        usage = reply.usage
        if usage is None:
            if self._needs_usage:
                raise InputError(f"{self.model}: the server sends no usage, so its tokens can not be counted")
            self.usage.uncounted += 1
            self._warn_once("the server sends no usage: its tokens count as 0")
        elif not reply.has_split:
            self.usage.estimated += 1
            self._warn_once(
                "the server does not count reasoning apart: its share is estimated from the number of characters"
            )
        if reply.finish_reason not in FINISHED | {"length"}:
            self._warn_once(
                "the server ends turns in words that are not known here: they count as cut off, see finish_reason"
            )
        return ChatResponse(request.id, reply.reasoning, reply.content, reply.finish_reason, usage or Usage(0, 0, 0))

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s: %s", self.model, message)


class _Client:
    """Sends requests to one server and retries them. Used in one event loop."""

    def __init__(self, chat: OpenAIChat, connections: Connections, place: str, key: Secret | None) -> None:
        self._chat, self._connections, self._place = chat, connections, place
        self._key = key.reveal().encode() if key else None
        self._policy, self._usage = chat._retry, chat.usage
        self._breaker = Breaker(self._policy, place)
        self._random = random.Random()

    async def complete(self, request: ChatRequest) -> ChatResponse | ChatFailure:
        """Send a request until it is answered or may not be retried."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._policy.deadline_s
        redraws = 0
        kept: Reply | None = None  # a usable response with a finish reason that is requested again
        for attempt in count(1):
            admission = await self._breaker.admit()
            deadline += admission.waited_s  # a pause of the breaker does not count
            outcome = await self._attempt(self._chat.body(request, redraws), deadline)
            is_last = attempt >= self._policy.attempts
            if isinstance(outcome, Reply):
                self._breaker.answered()
                if is_last or outcome.finish_reason not in self._policy.finish_reasons:
                    self._usage.attempt(outcome.usage)
                    return self._answer(request, outcome)
                self._usage.attempt(outcome.usage, fault=outcome.finish_reason)
                kept = outcome
                redraws += 1
                continue
            fault = outcome.fault
            self._usage.attempt(outcome.usage, fault=fault.reason)
            if fault.stops:
                raise InputError(f"{self._place}: {fault.detail}")
            if not self._policy.retries(fault):
                self._breaker.refused(fault)
                return self._answer(request, kept) if kept else self._failure(request, fault, attempt)
            if fault.reason == CONNECTION and self._chat.server is not None:
                self._chat.server.check()
            self._breaker.failed(admission, fault)
            redraws += fault.status is None and fault.reason not in (CONNECTION, TIMEOUT)
            delay = self._policy.delay(attempt, fault.retry_after, self._random)
            if is_last or now() + delay >= deadline:
                return self._answer(request, kept) if kept else self._failure(request, fault, attempt)
            await asyncio.sleep(delay)
        raise AssertionError

    def _answer(self, request: ChatRequest, reply: Reply) -> ChatResponse:
        self._usage.close()
        return self._chat.response(request, reply)

    def _failure(self, request: ChatRequest, fault: Fault, attempts: int) -> ChatFailure:
        self._usage.close(fault.reason)
        return ChatFailure(request.id, fault.reason, fault.detail, attempts)

    async def _attempt(self, body: bytes, deadline: float) -> Reply | Faulty:
        import aiohttp

        try:
            async with asyncio.timeout_at(deadline):
                response = await self._connections.post(body)
        except TimeoutError as error:
            return Faulty(Fault(TIMEOUT, one_line(error, DETAIL) or "the deadline of the request has passed"))
        except (aiohttp.ClientError, OSError) as error:
            is_untrusted = isinstance(error, ssl.SSLCertVerificationError)
            detail = self._without_key(f"{type(error).__name__}: {error}".encode()).decode()
            return Faulty(Fault(CONNECTION, one_line(detail, DETAIL), stops=is_untrusted))
        return self._read(response)

    def _without_key(self, text: bytes) -> bytes:
        """Error messages of servers repeat keys that are wrong."""
        return text if self._key is None else text.replace(self._key, b"***")

    def _read(self, response: Response) -> Reply | Faulty:
        body = self._without_key(response.body)
        if response.status != 200:
            return Faulty(fault_of_status(response.status, body, retry_after(response.headers)))
        return read_reply(body, **self._chat._reading)


def draw_seed(seed: int, sample: int, retry: int = 0) -> int:
    """The seed of a draw: for the first one the request's own, for every other one a hash of all three numbers.

    With a sum, sample 1 of seed 1 and sample 0 of seed 2 would be one draw, and runs of several seeds would overlap.
    """
    if sample == retry == 0:
        return seed
    return derived_seed(seed, sample, retry, size=4) >> 1  # 31 bits, which every server accepts


def _allow_sockets(concurrency: int) -> None:
    """Raise this process's limit of open files to one socket per request in flight, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = concurrency + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(f"concurrency={concurrency} needs {wanted} open files, this system allows {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
