"""Options of the ``mili`` command that are settings: their help is what the setting says of itself."""

from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from python_layer.utils.settings import Settings


def setting(name: str, panel: str | None = None) -> Any:
    """The option of a setting, in a group of the help if ``panel`` names one."""
    field = Settings.model_fields[name]
    types = (field.annotation, *get_args(field.annotation))  # the choice itself, or beside None
    choices: tuple[str, ...] = next((get_args(each) for each in types if get_origin(each) is Literal), ())
    among = f" One of {', '.join(choices)}." if choices else ""
    return typer.Option(help=f"{field.description}{among}", rich_help_panel=panel)


Model = Annotated[str | None, setting("model")]
Device = Annotated[str | None, setting("device")]
Dtype = Annotated[str | None, setting("dtype")]
KVDtype = Annotated[str | None, setting("kv_dtype")]
Quantization = Annotated[str | None, setting("quantization")]
Threads = Annotated[int | None, setting("threads")]
PageSize = Annotated[int | None, setting("page_size")]
MaxTokens = Annotated[int | None, setting("max_tokens")]
Temperature = Annotated[float | None, setting("temperature")]
TopP = Annotated[float | None, setting("top_p")]
TopK = Annotated[int | None, setting("top_k")]
