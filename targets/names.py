"""Know the names that ONNX Runtime understands: execution providers, session options, config entries.

Read from ONNX Runtime 1.31 and 1.32 (``get_all_providers()``, ``SessionOptions`` and
``onnxruntime_session_options_config_keys.h``). ONNX Runtime ignores a config entry that it does not know, so
a typing error there would go unnoticed for ever; this module is where it is noticed. An entry that resembles
no known one is let through, because releases add entries faster than this table can follow.
"""

from __future__ import annotations

from targets.errors import TargetError, nearest

_EXTENSIONS = """
    sse sse2 pni ssse3 sse4_1 sse4_2 sse4a avx avx2 f16c fma fma4 xop bmi1 bmi2 aes vaes gfni sha_ni vpclmulqdq
    avx_vnni avx_vnni_int8 avx_vnni_int16 avx_ifma avx_ne_convert avx10_1 avx10_2
    avx512f avx512bw avx512cd avx512dq avx512er avx512pf avx512vl avx512ifma avx512vbmi
    avx512_4fmaps avx512_4vnniw avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2 avx512_vnni avx512_vp2intersect
    avx512_vpopcntdq amx_tile amx_int8 amx_bf16 amx_fp16 amx_complex amx_fp8 amx_tf32
    fp asimd asimddp asimdfhm asimdhp asimdrdm fphp bf16 ebf16 i8mm pmull sha1 sha2 sha3 sha512 crc32 atomics
    sve sve2 sve2p1 svebf16 svef32mm svef64mm svei8mm svebitperm sveaes svepmull svesha3 svesm4 sveebf16
    sme sme2 sme2p1 smef16f32 smeb16f32 smef32f32 smei8i32 smef64f64 smei16i64 smei16i32 smebi32i32 smefa64
"""
EXTENSIONS = tuple(_EXTENSIONS.split())
"""Instruction set extensions as Linux spells them in ``/proc/cpuinfo``; one that resembles none is let through."""

PROVIDERS = (
    "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "OpenVINOExecutionProvider",
    "DnnlExecutionProvider",
    "VitisAIExecutionProvider",
    "QNNExecutionProvider",
    "NnapiExecutionProvider",
    "VSINPUExecutionProvider",
    "JsExecutionProvider",
    "CoreMLExecutionProvider",
    "ACLExecutionProvider",
    "DmlExecutionProvider",
    "RknpuExecutionProvider",
    "WebNNExecutionProvider",
    "WebGpuExecutionProvider",
    "XnnpackExecutionProvider",
    "CANNExecutionProvider",
    "AzureExecutionProvider",
    "CPUExecutionProvider",
)
"""Every execution provider, in ONNX Runtime's own order of priority."""

_LEVELS = (
    "ORT_DISABLE_ALL",
    "ORT_ENABLE_BASIC",
    "ORT_ENABLE_EXTENDED",
    "ORT_ENABLE_LAYOUT",
    "ORT_ENABLE_ALL",
)

SESSION_FIELDS: dict[str, type | tuple[str, ...]] = {
    "enable_cpu_mem_arena": bool,
    "enable_mem_pattern": bool,
    "enable_mem_reuse": bool,
    "enable_profiling": bool,
    "execution_mode": ("ORT_SEQUENTIAL", "ORT_PARALLEL"),
    "execution_order": ("DEFAULT", "PRIORITY_BASED", "MEMORY_EFFICIENT"),
    "graph_optimization_level": _LEVELS,
    "inter_op_num_threads": int,
    "intra_op_num_threads": int,
    "log_severity_level": int,
    "log_verbosity_level": int,
    "use_deterministic_compute": bool,
    "use_per_session_threads": bool,
}
"""Attributes of ``onnxruntime.SessionOptions`` that a target may set: their type, or the enumerators' names.

Left out on purpose: those that name files (``optimized_model_filepath``, ``profile_file_prefix``) and
``logid``, which say something about one run and nothing about a machine.
"""

THREAD_COUNT_WORDS = {"physical": 0}
"""Words for a number of threads; to ONNX Runtime, 0 is one per physical core, each bound to its core."""

CONFIG_ENTRIES = (
    "ep.context_embed_mode",
    "ep.context_enable",
    "ep.context_file_path",
    "ep.context_model_external_initializers_file_name",
    "ep.context_node_name_prefix",
    "ep.context_source_model_path",
    "ep.cuda.fpa_intb_gemm",
    "ep.cuda.fpa_intb_profile_m",
    "ep.cuda.gqa_workspace_max_total_sequence_length",
    "ep.enable_weightless",
    "ep.enable_weightless_ep_context_nodes",
    "ep.nnapi.partitioning_stop_ops",
    "ep.share_ep_contexts",
    "ep.stop_share_ep_contexts",
    "mlas.disable_kleidiai",
    "mlas.enable_gemm_fastmath_arm64_bfloat16",
    "mlas.kleidiai.conv_igemm_max_work",
    "mlas.nchwc_depthwise_sliding",
    "mlas.nchwc_pointwise_conv_max_input_channel_batch",
    "mlas.qnbit.force_fp32",
    "mlas.use_lut_gemm",
    "optimization.constant_folding_max_output_size_in_bytes",
    "optimization.disable_specified_optimizers",
    "optimization.enable_cast_chain_elimination",
    "optimization.enable_gelu_approximation",
    "optimization.minimal_build_optimizations",
    "session.allow_released_opsets_only",
    "session.collect_node_memory_stats_to_file",
    "session.debug_layout_transformation",
    "session.disable_aot_function_inlining",
    "session.disable_cpu_ep_fallback",
    "session.disable_double_qdq_remover",
    "session.disable_model_compile",
    "session.disable_prepacking",
    "session.disable_qdq_constant_folding",
    "session.disable_quant_qdq",
    "session.dynamic_block_base",
    "session.enable_dq_matmulnbits_fusion",
    "session.enable_moe_expert_counting",
    "session.enable_moe_expert_statistics",
    "session.enable_quant_qdq_cleanup",
    "session.enable_saved_runtime_optimizations",
    "session.external_data_loader.threads",
    "session.fail_on_suboptimal_compiled_model",
    "session.force_spinning_stop",
    "session.function_expansion_byte_limit",
    "session.function_expansion_node_limit",
    "session.gqa_value_layout",
    "session.graph_optimizations_loop_level",
    "session.inter_op.allow_spinning",
    "session.inter_op.spin_backoff_max",
    "session.inter_op.spin_duration_us",
    "session.intra_op.allow_spinning",
    "session.intra_op.spin_backoff_max",
    "session.intra_op.spin_duration_us",
    "session.intra_op_thread_affinities",
    "session.kernel_dispatch_policy",
    "session.layer_assignment_settings",
    "session.load_model_format",
    "session.max_shape_override",
    "session.model_external_initializers_file_folder_path",
    "session.moe_expert_counter_alpha",
    "session.moe_expert_counter_beta",
    "session.moe_expert_counter_state_file",
    "session.name_based_layer_assignment",
    "session.node_partition_config_file",
    "session.optimized_model_external_initializers_file_name",
    "session.optimized_model_external_initializers_min_size_in_bytes",
    "session.prepack.enable_parallel",
    "session.qdq_matmulnbits_accuracy_level",
    "session.qdq_matmulnbits_block_size",
    "session.qdqisint8allowed",
    "session.record_ep_graph_assignment_info",
    "session.resource_cuda_partitioning_settings",
    "session.save_external_prepacked_constant_initializers",
    "session.set_denormal_as_zero",
    "session.strict_shape_type_inference",
    "session.strict_workspace_verification",
    "session.use_device_allocator_for_initializers",
    "session.use_env_allocators",
    "session.use_external_initializer_file_buffers_directly",
    "session.use_memory_mapped_ort_model",
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
    "session.x64quantprecision",
)
"""Session config entries, each a dotted name whose value is a string."""

_TYPING_ERROR = 0.93
"""How alike an unknown config entry and a known one must be to be taken for a typing error."""


def check_extension(name: str, *, file: str = "", key: str = "") -> None:
    """Refuse an instruction set extension that is spelled almost as one of ``EXTENSIONS``."""
    near = "" if name in EXTENSIONS else nearest(name, EXTENSIONS)
    if near:
        why = f"no instruction set extension is called {name!r}"
        raise TargetError(why, file=file, key=key, nearest=near)


def check_provider(name: str, *, file: str = "", key: str = "") -> None:
    """Refuse the name of a provider that ONNX Runtime has never had."""
    if name not in PROVIDERS:
        raise TargetError(
            f"ONNX Runtime has no execution provider {name!r}",
            file=file,
            key=key,
            nearest=nearest(name, PROVIDERS) or nearest(f"{name}ExecutionProvider", PROVIDERS),
        )


def check_session_setting(name: str, value: object, *, file: str = "", key: str = "") -> None:
    """Refuse a session setting whose name or value ONNX Runtime would ignore or reject.

    A dotted name is a config entry and takes a string; any other must be one of ``SESSION_FIELDS``.
    """
    if "." in name:
        return _check_config_entry(name, value, file, key)
    kind = SESSION_FIELDS.get(name)
    if kind is None:
        close = nearest(name, SESSION_FIELDS) or nearest(f"session.{name}", CONFIG_ENTRIES, cutoff=0.9)
        why = f"{name!r} is neither a field of SessionOptions that a target may set nor a dotted config entry"
        hint = f"fields are {', '.join(SESSION_FIELDS)}"
        raise TargetError(why, file=file, key=key, nearest=close, hint=hint)
    if isinstance(kind, tuple):
        return _check_enumerator(value, kind, file, key)
    return _check_plain(value, kind, file, key, words=THREAD_COUNT_WORDS if name.endswith("_threads") else {})


def _check_config_entry(name: str, value: object, file: str, key: str) -> None:
    """Refuse a non-string value, and a name that is nearly one that exists."""
    if not isinstance(value, str):
        hint = f'write "{int(value) if isinstance(value, bool) else value}"'
        raise TargetError(f"a config entry takes a string, not {value!r}", file=file, key=key, hint=hint)
    close = nearest(name, CONFIG_ENTRIES, cutoff=_TYPING_ERROR)
    if name not in CONFIG_ENTRIES and close:
        raise TargetError(f"ONNX Runtime has no config entry {name!r}", file=file, key=key, nearest=close)


def _check_enumerator(value: object, names: tuple[str, ...], file: str, key: str) -> None:
    """Refuse what is not one of the enumerators' names."""
    if value not in names:
        close = nearest(str(value), names)
        raise TargetError(f"{value!r} is not one of {', '.join(names)}", file=file, key=key, nearest=close)


def _check_plain(value: object, kind: type, file: str, key: str, *, words: dict[str, int]) -> None:
    """Refuse a value that is neither of type ``kind`` (and not negative) nor one of ``words``."""
    if isinstance(value, str) and value in words:
        return
    number = " or ".join(["a number", *(f'"{word}"' for word in words)])
    expected = "true or false" if kind is bool else number
    if type(value) is not kind:
        raise TargetError(f"{value!r} should be {expected}", file=file, key=key)
    if not isinstance(value, bool) and isinstance(value, int) and value < 0:
        raise TargetError(f"{value} should not be negative", file=file, key=key)
