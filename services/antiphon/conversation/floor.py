"""Who has the floor on our side: the live reply, the one that is only thought of, and how the live one yields."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from antiphon.conversation import events
from antiphon.conversation.items import History, Item
from antiphon.conversation.ports import Ports, ReplyRequest, SynthesisRequest
from antiphon.conversation.reply import Reply, ReplyPlan
from antiphon.conversation.settings import ConversationSettings, ResponseOptions
from antiphon.conversation.states import Attention
from antiphon.conversation.timeline import Timeline

_REMEMBERED_REPLIES = 16
"""How many replies a client can still truncate: it plays the newest, and perhaps the one before."""

Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


@dataclass(frozen=True, slots=True)
class _Making:
    """A reply and the task that makes it."""

    reply: Reply
    task: asyncio.Task[None]


class Floor:
    """At most one reply is live, and at most one is begun on speculation; never both."""

    def __init__(
        self,
        ports: Ports,
        history: History,
        emit: Callable[[events.Event], None],
        spawn: Spawn,
        *,
        on_audible: Callable[[], None],
        on_finished: Callable[[Timeline], None],
    ) -> None:
        """`on_audible`: the live reply's first frame leaves. `on_finished`: it has ended by itself."""
        self.attention = Attention.FULL
        self._ports = ports
        self._history = history
        self._emit = emit
        self._spawn = spawn
        self._on_audible = on_audible
        self._on_finished = on_finished
        self._live: _Making | None = None
        self._speculation: _Making | None = None
        self._spoken: dict[str, Reply] = {}
        self._generation = 0

    @property
    def live(self) -> Reply | None:
        """The reply that the world knows of, until its last frame was sent."""
        return None if self._live is None else self._live.reply

    @property
    def held(self) -> bool:
        """The live reply is paused: it is not known yet whether the user interrupts it."""
        return self.attention is Attention.PAUSED

    def spoken(self, item_id: str) -> Reply | None:
        """The reply, live or past, that spoke this item."""
        if self.live is not None and self.live.message_id == item_id:
            return self.live
        return self._spoken.get(item_id)

    # --- begin and end ----------------------------------------------------------------------------------------------

    def speculate(self, settings: ConversationSettings, history: tuple[Item, ...], timeline: Timeline) -> None:
        """Think and synthesise already, while it is not decided that the user has finished."""
        self.discard_speculation()
        timeline.speculative = True
        self._speculation = self._begin(settings, ResponseOptions(), history, timeline)

    def discard_speculation(self) -> None:
        """The user goes on: nobody will know what was thought of."""
        speculation, self._speculation = self._speculation, None
        if speculation is not None:
            timeline = speculation.reply.timeline
            timeline.speculative = False
            timeline.first_token = timeline.first_audio_ready = None
            speculation.reply.stop("turn_detected")
            speculation.task.cancel()

    def commit_speculation(self) -> bool:
        """Make the speculation the live reply; False when there is none."""
        self._live, self._speculation = self._speculation, None
        return self._commit()

    def reply(self, settings: ConversationSettings, options: ResponseOptions, timeline: Timeline) -> None:
        """Begin a live reply to the history as it is."""
        self.discard_speculation()
        self._live = self._begin(settings, options, self._history.snapshot(), timeline)
        self._commit()

    def stop(self, reason: events.DoneReason, client_end_ms: int | None = None) -> None:
        """End the live reply at once, if there is one; the history keeps what was heard of it."""
        live, self._live = self._live, None
        self.attention = Attention.FULL
        if live is not None:
            live.task.cancel()
            self._remember(live.reply)
            live.reply.stop(reason, client_end_ms)
            self._emit(events.TurnCompleted(live.reply.timeline))

    # --- yield ------------------------------------------------------------------------------------------------------

    def duck(self, gain_db: float, audio_start_ms: int) -> None:
        """Lower the live voice: perhaps the user speaks."""
        reply = self.live
        if reply is not None:
            self.attention = Attention.DUCKED
            reply.set_gain_db(gain_db)
            reply.timeline.ducked = self._ports.clock.now()
            self._emit(events.ReplyDucked(reply.id, audio_start_ms))

    def hold(self) -> None:
        """Pause the live voice: the user speaks."""
        reply = self.live
        if reply is not None:
            self.attention = Attention.PAUSED
            reply.pause()
            reply.timeline.paused = self._ports.clock.now()
            self._emit(events.ReplyPaused(reply.id, reply.position_samples))

    def restore(self, cause: Literal["noise", "backchannel"]) -> None:
        """Full voice again, with no word lost: it was no interruption."""
        reply = self.live
        if reply is not None and self.attention is not Attention.FULL:
            self.attention = Attention.FULL
            reply.resume()
            self._emit(events.ReplyResumed(reply.id, reply.position_samples, cause))

    # --- making -----------------------------------------------------------------------------------------------------

    def _begin(
        self, settings: ConversationSettings, options: ResponseOptions, history: tuple[Item, ...], timeline: Timeline
    ) -> _Making:
        self._generation += 1
        plan = _plan(settings, options, history, self._generation)
        reply = Reply(plan, self._ports, self._history, timeline, self._emit, self._on_audible)
        return _Making(reply, self._spawn(f"reply:{reply.id}", self._make(reply)))

    def _commit(self) -> bool:
        if self._live is None:
            return False
        self._live.reply.commit()
        return True

    async def _make(self, reply: Reply) -> None:
        await reply.run()
        if self.live is reply:
            self._live = None
            self.attention = Attention.FULL
            self._remember(reply)
            self._on_finished(reply.timeline)

    def _remember(self, reply: Reply) -> None:
        if reply.message_id is not None:
            self._spoken[reply.message_id] = reply
            while len(self._spoken) > _REMEMBERED_REPLIES:
                del self._spoken[next(iter(self._spoken))]


def _plan(
    settings: ConversationSettings, options: ResponseOptions, history: tuple[Item, ...], generation: int
) -> ReplyPlan:
    """What a reply is to be: as the session has it, but for what its `response.create` asked to be different."""
    audio = settings.audio_output if options.audio_output is None else options.audio_output
    request = ReplyRequest(
        settings.session_id,
        history,
        settings.instructions if options.instructions is None else options.instructions,
        settings.tools if options.tools is None else options.tools,
        settings.tool_choice if options.tool_choice is None else options.tool_choice,
        options.max_output_tokens or settings.max_output_tokens,
    )
    synthesis = SynthesisRequest(
        settings.session_id,
        settings.voice_model,
        settings.voice if options.voice is None else options.voice,
        settings.language,
        settings.output_rate_hz,
        settings.speed,
        fallback=settings.voice_fallback,
    )
    return ReplyPlan(
        request,
        synthesis if audio else None,
        generation,
        settings.limits.reply_start_s,
        settings.apology,
        settings.lead_ms,
        options.metadata,
    )
