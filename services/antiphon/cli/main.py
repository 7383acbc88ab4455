"""The `antiphon` command: every command on one page. Heavy imports are inside, so that `--help` is quick."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from antiphon.cli.api import Server
    from antiphon.cli.running import Running


def examples(*commands: str) -> str:
    """The end of a command's help: lines to copy."""
    return "Examples:\n\n" + "\n\n".join(f"[green]{command}[/]" for command in commands)


app = typer.Typer(
    name="antiphon",
    help="Realtime, full-duplex voice that you host yourself.\n\n"
    "Begin with [bold]antiphon up[/] in one terminal and [bold]antiphon talk[/] in another.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

URL = "http://127.0.0.1:8080"
DATA_DIR = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphon"

Url = Annotated[
    str, typer.Option(help="The server's base address; any Realtime server will do.", envvar="ANTIPHON_URL")
]
Key = Annotated[str, typer.Option(help="API key, where the server wants one.", envvar="ANTIPHON_API_KEY")]
DataDir = Annotated[Path, typer.Option(help="Where models, logs and notes are kept.", envvar="ANTIPHON_DATA_DIR")]
Redis = Annotated[str | None, typer.Option(help="The registry, as redis://host:port/0. Default: a private one.")]
Registry = Annotated[
    str | None, typer.Option("--redis", help="The registry. Default: this machine's.", envvar="ANTIPHON_REDIS_URL")
]
Namespace = Annotated[
    str, typer.Option(help="Of the registry given by --redis; in a cluster, the pods'.", envvar="ANTIPHON_NAMESPACE")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on; beyond this machine it needs API keys.")]
Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="Port to listen on. Default: 8080; 0: any free one.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML file of assistants, models and aliases; docs/examples holds some.")
]
Models = Annotated[
    Path | None,
    typer.Option(
        help="VoiceModels as a cluster takes them: a manifest, or a folder of some; served beside the file's."
    ),
]
Voice = Annotated[
    str | None, typer.Option(help="A Piper voice, such as en_US-lessac-medium, or the path of an .onnx file.")
]
LlmUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible chat server that thinks of what to say.")]
LlmModel = Annotated[str | None, typer.Option(help="The model to ask for there.")]
LlmKeyEnv = Annotated[str | None, typer.Option(help="The environment variable that holds that server's key.")]
Instructions = Annotated[str | None, typer.Option(help="What the assistant is told to be.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes; each holds every model.")]
Orchestrators = Annotated[
    int, typer.Option(min=1, max=64, help="Orchestrator processes; several share the port, and a session moves.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Watch = Annotated[bool, typer.Option("--watch", help="Print again at every change, until Ctrl-C.")]


class Task(StrEnum):
    """What a model does."""

    TTS = "tts"
    ASR = "asr"


class TranscriptFormat(StrEnum):
    """How a transcript is written."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"


@app.command(
    rich_help_panel="Serve",
    epilog=examples(
        "antiphon up",
        "antiphon up --voice en_US-lessac-medium",
        'antiphon up --llm-url http://127.0.0.1:11434/v1 --llm-model llama3.2 --instructions "Be brief."',
        "antiphon up --config docs/examples/assistants.yaml --workers 2",
        "antiphon up --models crds/samples/cpu.yaml               # the VoiceModels of a cluster",
    ),
)
def up(
    host: Host = None,
    port: Port = None,
    config: Config = None,
    models: Models = None,
    voice: Voice = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    instructions: Instructions = None,
    redis: Redis = None,
    workers: Workers = 1,
    orchestrators: Orchestrators = 1,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Start antiphon on this machine: registry, workers and orchestrator."""
    from antiphon.cli.embedded import UpOptions
    from antiphon.cli.up import up

    options = UpOptions(
        host,
        port,
        config,
        models,
        voice,
        llm_url,
        llm_model,
        llm_key_env,
        instructions,
        redis,
        workers,
        orchestrators,
        data_dir,
    )
    _until_told(up(options))


@app.command(
    rich_help_panel="Talk",
    epilog=examples(
        "antiphon talk                                            # microphone and loudspeaker",
        'antiphon talk --text "Good morning."',
        "antiphon talk --input question.wav --output reply.wav",
    ),
)
def talk(
    text: Annotated[str | None, typer.Option(help="Type this instead of speaking.")] = None,
    input: Annotated[Path | None, typer.Option(help="Speak this recording instead of the microphone.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the reply's sound into this WAV file.")] = None,
    assistant: Annotated[str, typer.Option(help="Whom to talk to.")] = "default",
    url: Url = URL,
    key: Key = "",
) -> None:
    """Hold a conversation, with both transcripts as they come."""
    from antiphon.cli.talk import talk

    _until_told(talk(_server(url, key), assistant=assistant, input=input, output=output, text=text))


@app.command(
    rich_help_panel="Talk",
    epilog=examples(
        'antiphon say "Good morning."',
        'antiphon say "Good morning." --output morning.mp3',
        "antiphon say - --output story.wav < story.txt",
    ),
)
def say(
    text: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")],
    output: Annotated[Path | None, typer.Option(help="A .wav, .mp3, .opus, .flac, .aac or .pcm file.")] = None,
    model: Annotated[str, typer.Option(help="Which model speaks.")] = "default",
    voice: Annotated[str, typer.Option(help="Which of the model's voices.")] = "default",
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="1 is the voice's own.")] = 1.0,
    url: Url = URL,
    key: Key = "",
) -> None:
    """Speak a text, out loud or into a file."""
    from antiphon.cli.say import say

    words = sys.stdin.read() if text == "-" else text
    _until_told(say(_server(url, key), words, output=output, model=model, voice=voice, speed=speed))


@app.command(
    rich_help_panel="Talk",
    epilog=examples(
        "antiphon transcribe interview.mp3",
        "antiphon transcribe film.mkv --format srt > film.srt",
    ),
)
def transcribe(
    file: Annotated[Path, typer.Argument(help="A recording in any common format.")],
    format: Annotated[TranscriptFormat, typer.Option(help="How it is written.")] = TranscriptFormat.TEXT,
    model: Annotated[str, typer.Option(help="Which model listens.")] = "default",
    language: Annotated[str, typer.Option(help="Such as en; empty: detected.")] = "",
    url: Url = URL,
    key: Key = "",
) -> None:
    """Write down what is said in a recording."""
    from antiphon.cli.transcribe import transcribe

    options = {"model": model} | ({"language": language} if language else {})
    _until_told(transcribe(_server(url, key), file, format=format.value, **options))


@app.command(
    rich_help_panel="Look inside",
    epilog=examples(
        "antiphon models",
        "antiphon models --watch",
        "antiphon models --json --redis redis://127.0.0.1:6379/0",
    ),
)
def models(
    watch: Watch = False,
    json: Json = False,
    redis: Registry = None,
    namespace: Namespace = "default",
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List the models, and on how many workers each is loaded."""
    from antiphon.cli.tables import model_rows, show

    _until_told(show(_registry(redis, namespace, data_dir), model_rows, watch=watch, as_json=json))


@app.command(
    rich_help_panel="Look inside",
    epilog=examples(
        "antiphon workers",
        "antiphon workers --watch",
    ),
)
def workers(
    watch: Watch = False,
    json: Json = False,
    redis: Registry = None,
    namespace: Namespace = "default",
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List the workers: where they are, what they hold, how busy they are."""
    from antiphon.cli.tables import show, worker_rows

    _until_told(show(_registry(redis, namespace, data_dir), worker_rows, watch=watch, as_json=json))


@app.command(
    rich_help_panel="Look inside",
    epilog=examples(
        "antiphon route tts joe",
        "antiphon route tts joe --explain",
        "antiphon route asr tiny-en --language fr --explain --watch",
    ),
)
def route(
    task: Annotated[Task, typer.Argument(help="tts or asr.")],
    model: Annotated[str, typer.Argument(help="A model of the catalogue, by name or alias.")],
    explain: Annotated[bool, typer.Option("--explain", help="Every worker, and why it was or was not chosen.")] = False,
    engine: Annotated[str, typer.Option(help="Only by this engine.")] = "",
    language: Annotated[str, typer.Option(help="Such as en or en-GB.")] = "",
    voice: Annotated[str, typer.Option(help="A voice of the model.")] = "",
    sample_rate: Annotated[int, typer.Option(min=0, help="In Hz, at least.")] = 0,
    streaming: Annotated[bool, typer.Option("--streaming", help="Only if it streams.")] = False,
    cloning: Annotated[bool, typer.Option("--cloning", help="Only if it clones voices.")] = False,
    emotion: Annotated[bool, typer.Option("--emotion", help="Only if it knows emotions.")] = False,
    session: Annotated[str, typer.Option(help="As for this session: decides which revision it gets.")] = "",
    watch: Watch = False,
    json: Json = False,
    redis: Registry = None,
    namespace: Namespace = "default",
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Tell which worker would be asked now, without asking it."""
    from functools import partial

    from antiphon.cli.tables import explained_rows, route_rows, show
    from antiphon.registry.routing import RouteRequest

    request = RouteRequest(
        task.value, model, engine, language, voice, sample_rate, streaming, cloning, emotion, session
    )
    rows = partial(explained_rows if explain else route_rows, request)
    _until_told(show(_registry(redis, namespace, data_dir), rows, watch=watch, as_json=json))


@app.command(
    rich_help_panel="Look inside",
    epilog=examples(
        "antiphon demo",
        "antiphon demo --once",
    ),
)
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the conversation.")] = False,
    out: Annotated[Path, typer.Option(help="Where the recording and the picture go.")] = Path("out"),
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Start antiphon, hold a spoken conversation with it, and judge it as a listener would."""
    from antiphon.cli.demo import demo
    from antiphon.cli.embedded import UpOptions

    _until_told(demo(UpOptions(data_dir=data_dir), out, once=once))


@app.command(
    rich_help_panel="Look inside",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Measure what a listener hears; antiphon bench --help lists what can be measured."""
    from antiphon.cli.bench import app as bench

    bench(args=context.args, prog_name="antiphon bench")


@app.command(
    rich_help_panel="Serve",
    epilog=examples(
        "ANTIPHON_WORKER_MODELS=models.yaml ANTIPHON_WORKER_REDIS_URL=redis://127.0.0.1:6379/0 antiphon worker",
        "ANTIPHON_WORKER_REDIS_URL=redis://127.0.0.1:6379/0 antiphon worker   # holds what the registry says",
    ),
)
def worker() -> None:
    """Run one worker, configured by the environment.

    A setting is the variable ANTIPHON_WORKER_ and its name in capitals:
    worker_id, host, advertise_host, port, metrics_port, log_json, log_level,
    models (a YAML file, or JSON), redis_url, namespace, token_file,
    cache, rewrites (JSON), memory_budget_mib, resident_cap, load_wait_s,
    synthesis_threads, recognition_threads, load_threads, loudness_lufs,
    max_streams, max_text_chars, max_utterance_s, max_stream_s,
    drain_timeout_s.
    """
    from antiphon.worker.config import WorkerConfig
    from antiphon.worker.server import run

    run(WorkerConfig())


@app.command(
    rich_help_panel="Serve",
    epilog=examples(
        "antiphon orchestrator --config docs/examples/assistants.yaml",
    ),
)
def orchestrator(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    redis: Annotated[
        str | None, typer.Option(help="The registry; it goes before the file's.", envvar="ANTIPHON_REDIS_URL")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON.")] = False,
) -> None:
    """Run one orchestrator; prints its address, and that of its status, once it listens."""
    from antiphon.orchestrator.app import Addresses, serve
    from antiphon.orchestrator.config import load_config
    from antiphon.telemetry.logs import configure_logging

    configure_logging(as_json=log_json)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    loaded = load_config(config)
    registry = loaded.registry if redis is None else loaded.registry.model_copy(update={"url": redis})
    server = loaded.server.model_copy(update=given)
    loaded = loaded.model_copy(update={"server": server, "registry": registry})

    def listening(addresses: Addresses) -> None:
        print(f"{addresses.url}\nstatus {addresses.status_url}", flush=True)

    asyncio.run(serve(loaded, ready=listening))


@app.command(
    rich_help_panel="Serve",
    epilog=examples(
        "antiphon registrar --models crds/samples/cpu.yaml --redis redis://127.0.0.1:6379/0",
    ),
)
def registrar(
    models: Annotated[Path, typer.Option(help="VoiceModels as a cluster takes them: a manifest, or a folder of some.")],
    redis: Annotated[str, typer.Option(help="The registry to write.", envvar="ANTIPHON_REDIS_URL")],
    namespace: Namespace = "default",
) -> None:
    """Tell workers that no operator looks after what to serve, and orchestrators who they are."""
    from antiphon.cli.registrar import keep
    from antiphon.telemetry.logs import configure_logging

    configure_logging(as_json=False)
    _until_told(keep(models, redis, namespace))


def main() -> None:
    """Run the command line; every failure is one sentence and exit status 1."""
    logging.getLogger().addHandler(logging.NullHandler())  # a log is for those who ask for one
    # A container's first process ignores what it has no handler for: told to go while it still imports what a command
    # needs, it would stay for the whole grace of its pod.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except Exception as error:
        if os.environ.get("ANTIPHON_DEBUG"):
            raise
        from antiphon.cli.failures import explain

        print(f"antiphon: {explain(error)}", file=sys.stderr)
        sys.exit(1)


def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or to Ctrl-C or SIGTERM, which are a good end, too."""

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return


def _server(url: str, key: str) -> "Server":
    from antiphon.cli.api import Server

    return Server(url, key)


def _registry(redis: str | None, namespace: str, data_dir: Path) -> "Running":
    from antiphon.cli.running import Running

    return Running.find(data_dir) if redis is None else Running(data_dir, redis, namespace)


if __name__ == "__main__":
    main()
