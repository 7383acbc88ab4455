"""`antiphon up`: starts everything, shows how far it is, says what to type next, and stays until it is told to go."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from antiphon.cli.deployment import Deployment, deployed
from antiphon.cli.embedded import UpOptions
from antiphon.orchestrator.config import AssistantConfig, ChatConfig
from antiphon.telemetry.logs import TextFormatter, log_to

_REFRESH_S = 0.1


async def up(options: UpOptions) -> None:
    """Serve until cancelled."""
    async with started(options, Console()):
        await asyncio.Event().wait()


@asynccontextmanager
async def started(options: UpOptions, console: Console) -> AsyncIterator[Deployment]:
    """A deployment that takes calls; its progress and then its address are printed."""

    def warn(sentence: str) -> None:
        console.print(f"[yellow]{escape(sentence)}[/]", highlight=False)

    _log_into(options.data_dir / "logs")
    async with deployed(options, warn) as deployment:
        await _show_progress(deployment, console)
        _show_ready(deployment, options, console)
        try:
            yield deployment
        finally:
            console.print("Ending.")


def _log_into(folder: Path) -> None:
    """Keep this process's own log beside those of its children: the terminal is for people."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "up.log", mode="w")
    handler.setFormatter(TextFormatter())
    log_to(handler)


async def _show_progress(deployment: Deployment, console: Console) -> None:
    """Bars until it is ready."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {name: progress.add_task(f"loading {name}", total=1.0) for name in deployment.loading()}
        console.print(f"Starting antiphon with {', '.join(bars)}.", highlight=False)
        async with asyncio.TaskGroup() as tasks:
            ready = tasks.create_task(deployment.ready(), name="ready")
            while not ready.done():
                for name, done in deployment.loading().items():
                    progress.update(bars[name], completed=done)
                await asyncio.wait([ready], timeout=_REFRESH_S)


def _show_ready(deployment: Deployment, options: UpOptions, console: Console) -> None:
    config, url = deployment.config, deployment.url
    there = "" if url == "http://127.0.0.1:8080" else f" --url {url}"
    assistants = [f"{name} ({_told(assistant)})" for name, assistant in config.assistants.items()]
    models = [f"{spec.name} ({spec.task}, {spec.engine})" for spec in config.models]
    lines = [
        f"[bold green]antiphon is ready at {url}[/]",
        f"  assistants  {escape(', '.join(assistants))}",
        f"  models      {escape(', '.join(models))}",
        *_orchestrators(deployment),
        f"  workers     {options.workers}",
        f"  logs        {options.data_dir / 'logs'}",
        "",
        f"  Talk to it:   [bold]antiphon talk{there}[/]   or   [bold]antiphon talk{there} --text 'Good morning.'[/]",
        f"  Or by OpenAI's API: [bold]OpenAI(base_url='{url}/v1', api_key='none')[/]",
        "  Ctrl-C ends it.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _orchestrators(deployment: Deployment) -> list[str]:
    """Of several: where each tells its own metrics, which a shared port gives of any of them."""
    addresses = deployment.orchestrators.status_urls
    if len(addresses) == 1:
        return []
    return [f"  {name}  status and metrics at {addresses[name]}" for name in sorted(addresses)]


def _told(assistant: AssistantConfig) -> str:
    responder = assistant.responder
    return f"{responder.model} at {responder.url}" if isinstance(responder, ChatConfig) else "says back what it heard"
