"""The bundle format: text in, `PreparedBundle` out.

text --parse_document--> Document --check_storable--> stored
Document --prepare--> PreparedBundle: composed with its includes, modules found, mount plan built
mount plan --expand--> the plan one session runs, its variables filled in
"""

from .activation import Activation
from .builtin import BUILTIN_BUNDLES, default_config_text
from .bundle import Bundle, ModuleSpec
from .document import (
    Document,
    DocumentLimits,
    DocumentTooComplex,
    InvalidDocument,
    InvalidYaml,
    dump_yaml,
    parse_document,
    parse_yaml,
)
from .editing import Edit, ModuleExists, add_include, add_module
from .fetched import Fetch, Fetched, Unresolved
from .mentions import Expansion
from .prepare import PreparedBundle, Sources, prepare
from .prompt import BuiltPrompt
from .validation import NotRunnable, RelativeReference, check_storable
from .variables import MissingVariables, VariableScope, VariableUse, expand, find_variables, missing_variables

__all__ = [
    "BUILTIN_BUNDLES",
    "Activation",
    "BuiltPrompt",
    "Bundle",
    "Document",
    "DocumentLimits",
    "DocumentTooComplex",
    "Edit",
    "Expansion",
    "Fetch",
    "Fetched",
    "InvalidDocument",
    "InvalidYaml",
    "MissingVariables",
    "ModuleExists",
    "ModuleSpec",
    "NotRunnable",
    "PreparedBundle",
    "RelativeReference",
    "Sources",
    "Unresolved",
    "VariableScope",
    "VariableUse",
    "add_include",
    "add_module",
    "check_storable",
    "default_config_text",
    "dump_yaml",
    "expand",
    "find_variables",
    "missing_variables",
    "parse_document",
    "parse_yaml",
    "prepare",
]
