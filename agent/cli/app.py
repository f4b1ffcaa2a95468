"""What can be typed: commands, their options, and how they end (0 well, 1 failed, 2 asked wrongly)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent import __version__
from agent.cli.cloud.commands import Label, cloud
from agent.cli.errors import CommandError, UsageError

HELP = """An inference agent for one device: quantised models over HTTP (OpenAI's API), gRPC and MQTT.

[bold]First steps[/bold]
  autoglm serve              start the agent; the first time brings a model
  autoglm generate "Hello!"  ask it, from another terminal
  autoglm publish "Hello!"   ask it by MQTT (serve with --mqtt embedded)
  autoglm pull SOURCE        bring a model: catalog name, file, folder, URL, owner/repo
"""
EPILOG = (
    "Settings: AUTOGLM_* variables and /etc/autoglm/agent.toml (docs/configuration.md). "
    "Commands work through the running agent where there is one."
)

AGENT, MODELS, ASK, FLEET = "The agent", "Models", "Ask", "A fleet"

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(cloud, name="cloud", rich_help_panel=FLEET)

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for scripts.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Model name; the node's own if left out.")]
Versions = Annotated[str, typer.Argument(help="A model; NAME:VERSION where several are tried.")]
Weight = Annotated[float | None, typer.Option(help="Percent of the traffic that it gets.", min=0, max=100)]
Shadow = Annotated[
    bool, typer.Option("--shadow", metavar="", help="It answers copies, which are compared; nobody sees it.")
]
Prompt = Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")]
System = Annotated[str | None, typer.Option(help="A system message before the prompt.")]
MaxTokens = Annotated[int | None, typer.Option(help="The most tokens to generate.", min=1)]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy, 2 is wild.", min=0, max=2)]
Seed = Annotated[int | None, typer.Option(help="The same seed draws the same tokens.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"autoglm {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=AGENT)
def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Catalog name, file, URL or owner/repo[:file].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (AUTOGLM_HTTP_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port (AUTOGLM_HTTP_PORT).", max=65535)] = None,
    mqtt: Annotated[
        str | None, typer.Option(help="mqtt://host:port, mqtts://..., embedded or none (AUTOGLM_MQTT_URL).")
    ] = None,
) -> None:
    """Run the agent here. The first start brings the default model."""
    from agent.cli.serve import serve

    serve(model=model, http_host=host, http_port=port, mqtt_url=mqtt)


@app.command(rich_help_panel=AGENT)
def status(json: Json = False) -> None:
    """Show the model, the queue and the Worker of the running agent."""
    from agent.cli.status import status

    status(json)


@app.command(rich_help_panel=AGENT)
def doctor(json: Json = False) -> None:
    """Check this machine and the agent; say what to do."""
    from agent.cli.doctor import doctor

    doctor(json)


@app.command(rich_help_panel=AGENT)
def bench(
    clients: Annotated[str, typer.Option(help="Numbers of concurrent clients, with commas.")] = "1,4,8,16",
    model: Model = None,
    requests: Annotated[int, typer.Option(help="Requests of each client.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="Tokens generated in each answer.", min=2)] = 64,
    json: Json = False,
) -> None:
    """Measure tokens/s and latency of the agent on this box."""
    from agent.cli.bench import bench

    bench(clients, model, requests, max_tokens, json)


@app.command(rich_help_panel=ASK)
def generate(
    prompt: Prompt,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    raw: Annotated[
        bool, typer.Option("--raw", metavar="", help="Continue the text: no chat template.")
    ] = False,
    json: Json = False,
) -> None:
    """Ask over HTTP, and print the answer as it streams."""
    from agent.cli.generate import Question, generate

    generate(Question(_text(prompt), model, system, max_tokens, temperature, seed), raw, json)


@app.command(rich_help_panel=ASK)
def publish(
    prompt: Prompt,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the result.", min=1)] = 120,
    json: Json = False,
) -> None:
    """Ask by MQTT, and print the answer as it streams."""
    from agent.cli.generate import Question
    from agent.cli.publish import publish

    publish(Question(_text(prompt), model, system, max_tokens, temperature, seed), timeout, json)


@app.command(rich_help_panel=MODELS)
def pull(
    source: Annotated[str, typer.Argument(help="Catalog name, file, folder, URL, or owner/repo[:file].")],
    name: Annotated[str | None, typer.Option(help="What the model is to be called.")] = None,
    quantize: Annotated[
        bool, typer.Option("--quantize", metavar="", help="ONNX: keep an int8 version if it is better here.")
    ] = False,
    weight: Weight = None,
    shadow: Shadow = False,
    json: Json = False,
) -> None:
    """Bring a model onto the shelf. A running agent offers it at once.

    It is loaded when somebody asks for it; a model that is loaded already changes to what came, or
    tries it first with --weight or --shadow.
    """
    from agent.cli.shelf import pull
    from agent.cli.trials import trial

    pull(source, name, quantize, json, trial(weight, shadow))


@app.command(rich_help_panel=MODELS)
def models(json: Json = False) -> None:
    """List the models on the shelf."""
    from agent.cli.shelf import models

    models(json)


@app.command(rich_help_panel=MODELS)
def load(name: Annotated[str, typer.Argument(help="A model, or one version of it: NAME:VERSION.")]) -> None:
    """Load a model into memory now. A request for it does that too."""
    from agent.cli.shelf import load

    load(name)


@app.command(rich_help_panel=MODELS)
def unload(name: Annotated[str, typer.Argument(help="A model.")]) -> None:
    """Free a model's memory once its running answers have ended."""
    from agent.cli.shelf import unload

    unload(name)


@app.command(rich_help_panel=MODELS)
def remove(
    name: Annotated[str, typer.Argument(help="A model, or one version of it: NAME:VERSION.")],
    json: Json = False,
) -> None:
    """Remove a model from the shelf. What the running agent has loaded stays."""
    from agent.cli.shelf import remove

    remove(name, json)


@app.command(rich_help_panel=MODELS)
def canary(
    name: Annotated[str, typer.Argument(help="NAME:VERSION, which is on the shelf.")],
    weight: Weight = None,
    shadow: Shadow = False,
) -> None:
    """Try a version on 5% of its model's traffic, on --weight percent, or as a shadow."""
    from agent.cli.trials import canary

    canary(name, weight, shadow)


@app.command(rich_help_panel=MODELS)
def promote(name: Versions) -> None:
    """Let the version that is tried serve in place of the stable one."""
    from agent.cli.trials import promote

    promote(name)


@app.command(rich_help_panel=MODELS)
def abort(name: Versions) -> None:
    """End a trial: the stable version has all the traffic again."""
    from agent.cli.trials import abort

    abort(name)


@app.command(rich_help_panel=FLEET)
def join(
    url: Annotated[
        str, typer.Argument(help="The controller's: https://HOST:8090; or a broker's: mqtts://HOST.")
    ],
    token: Annotated[str, typer.Option(help="From: autoglm cloud token.")],
    name: Annotated[str | None, typer.Option(help="What the node is to be called; AUTOGLM_NODE.")] = None,
    label: Label = None,
    again: Annotated[
        bool, typer.Option("--again", metavar="", help="Though this machine is a node already.")
    ] = False,
    broker_ca: Annotated[
        Path | None, typer.Option(help="The broker's CA (PEM), where the system does not know it.")
    ] = None,
) -> None:
    """Make this machine a node of a fleet."""
    from agent.cli.cloud.join import join

    join(url, token, name, label or [], again, broker_ca)


@app.command(rich_help_panel=FLEET)
def leave(
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Though the controller cannot be told.")
    ] = False,
) -> None:
    """Let this machine be a node of a fleet no longer; the agent serves on."""
    from agent.cli.cloud.leave import leave

    leave(force)


def _text(prompt: str) -> str:
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("the prompt is empty: say what is asked")
    return text


def main() -> None:
    """Entry point: every expected failure is one line on standard error."""
    try:
        app()
    except CommandError as error:
        print(f"autoglm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `autoglm models | head -1`: nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
