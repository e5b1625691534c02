"""Know the options of execution providers by name, so that a typing error is noticed before anything is deployed.

Read in the providers' sources in ONNX Runtime 1.30 (``*_execution_provider_info.cc``, ``*_provider_factory.*``) and the
plugin of QNN.  Some providers raise at an option that they do not know, and some ignore it; a target file is refused
either way.  Providers that hand their options on to a library of the vendor's take any.

Decision: an option that a newer release has, and this table has not, can be set as a session entry,
``"ep.<provider in lower case>.<option>"``.
"""

from __future__ import annotations

from targets.errors import TargetError, nearest

_CUDA = """
    device_id has_user_compute_stream user_compute_stream gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search
    do_copy_in_default_stream gpu_external_alloc gpu_external_free gpu_external_empty_cache cudnn_conv_use_max_workspace
    enable_cuda_graph cudnn_conv1d_pad_to_nc1d enable_cudnn tunable_op_enable tunable_op_tuning_enable
    tunable_op_max_tuning_duration_ms enable_skip_layer_norm_strict_mode prefer_nhwc use_ep_level_unified_stream
    use_tf32 fuse_conv_bias sdpa_kernel
"""
_TENSORRT = """
    device_id has_user_compute_stream user_compute_stream trt_max_partition_iterations trt_min_subgraph_size
    trt_max_workspace_size trt_fp16_enable trt_bf16_enable trt_int8_enable trt_int8_calibration_table_name
    trt_int8_use_native_calibration_table trt_dla_enable trt_dla_core trt_dump_subgraphs trt_engine_cache_enable
    trt_engine_cache_path trt_engine_cache_prefix trt_weight_stripped_engine_enable trt_onnx_model_folder_path
    trt_engine_decryption_enable trt_engine_decryption_lib_path trt_force_sequential_engine_build
    trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback trt_timing_cache_enable trt_timing_cache_path
    trt_force_timing_cache trt_detailed_build_log trt_build_heuristics_enable trt_sparsity_enable
    trt_builder_optimization_level trt_auxiliary_streams trt_tactic_sources trt_extra_plugin_lib_paths
    trt_profile_min_shapes trt_profile_max_shapes trt_profile_opt_shapes trt_cuda_graph_enable trt_preview_features
    trt_dump_ep_context_model trt_ep_context_file_path trt_ep_context_embed_mode trt_engine_hw_compatible
    trt_onnx_bytestream trt_onnx_bytestream_size trt_external_data_bytestream trt_external_data_bytestream_size
    trt_op_types_to_exclude trt_load_user_initializer
"""
_TENSORRT_RTX = """
    device_id has_user_compute_stream user_compute_stream user_aux_stream_array nv_length_aux_stream_array
    nv_max_workspace_size nv_max_shared_mem_size nv_dump_subgraphs nv_detailed_build_log nv_profile_min_shapes
    nv_profile_max_shapes nv_profile_opt_shapes nv_multi_profile_enable enable_cuda_graph
    nv_use_external_data_initializer nv_runtime_cache_path
"""
_CORE_ML = """
    ModelFormat MLComputeUnits RequireStaticInputShapes EnableOnSubgraphs SpecializationStrategy ProfileComputePlan
    AllowLowPrecisionAccumulationOnGPU ModelCacheDirectory
"""
_QNN = """
    backend_type backend_path profiling_level profiling_file_path rpc_control_latency vtcm_mb htp_performance_mode
    htp_graph_finalization_optimization_mode qnn_context_priority htp_arch soc_model device_id
    enable_htp_fp16_precision offload_graph_io_quantization enable_htp_spill_fill_buffer
    enable_htp_shared_memory_allocator htp_bf16_enable enable_vtcm_backup_buffer_sharing disable_file_mapped_weights
    extended_udma op_packages dump_json_qnn_graph json_qnn_graph_dir dump_qnn_ir_dlc dump_qnn_ir_dlc_dir
    qnn_ir_backend_path qnn_saver_path skip_qnn_version_check
"""
_OPENVINO = """
    device_type device_id device_luid precision num_of_threads num_streams cache_dir load_config context
    enable_opencl_throttling enable_qdq_optimizer enable_causallm disable_dynamic_shapes model_priority reshape_input
    layout
"""
_DML = "device_id performance_preference device_filter disable_metacommands"
_WEBGPU = """
    preferredLayout enableGraphCapture sessionBufferPoolGenerations enableInt64 multiRotaryCacheConcatOffset
    kvCacheQuantizationBits dawnBackendType powerPreference deviceId webgpuInstance webgpuDevice
    storageBufferCacheMode uniformBufferCacheMode queryResolveBufferCacheMode defaultBufferCacheMode validationMode
    enableRobustness forceCpuNodeNames enablePIXCapture preserveDevice maxStorageBufferBindingSize
    maxNumPendingDispatches
"""
_MIGRAPHX = """
    device_id migraphx_fp16_enable migraphx_bf16_enable migraphx_fp8_enable migraphx_int8_enable
    migraphx_int8_calibration_table_name migraphx_int8_use_native_calibration_table migraphx_exhaustive_tune
    migraphx_mem_limit migraphx_arena_extend_strategy migraphx_external_alloc migraphx_external_free
    migraphx_external_empty_cache migraphx_model_cache_dir
"""

OPTIONS: dict[str, tuple[str, ...]] = {
    name: tuple(sorted(text.split()))
    for name, text in (
        ("ACLExecutionProvider", "enable_fast_math"),
        ("CPUExecutionProvider", "use_arena"),
        ("CUDAExecutionProvider", _CUDA),
        ("CoreMLExecutionProvider", _CORE_ML),
        ("DmlExecutionProvider", _DML),
        ("MIGraphXExecutionProvider", _MIGRAPHX),
        ("NnapiExecutionProvider", ""),
        ("NvTensorRTRTXExecutionProvider", _TENSORRT_RTX),
        ("OpenVINOExecutionProvider", _OPENVINO),
        ("QNNExecutionProvider", _QNN),
        ("TensorrtExecutionProvider", _TENSORRT),
        ("WebGpuExecutionProvider", _WEBGPU),
        ("XnnpackExecutionProvider", "intra_op_num_threads"),
    )
}
"""Provider → its options; a provider that is not here takes any."""

_HTP_MODES = """
    default burst balanced high_performance high_power_saver low_balanced low_power_saver power_saver
    extreme_power_saver sustained_high_performance
"""

_CACHE_MODES = ("disabled", "lazyRelease", "simple", "bucket")

VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("CUDAExecutionProvider", "arena_extend_strategy"): ("kNextPowerOfTwo", "kSameAsRequested"),
    ("CUDAExecutionProvider", "cudnn_conv_algo_search"): ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    ("CoreMLExecutionProvider", "ModelFormat"): ("NeuralNetwork", "MLProgram"),
    ("CoreMLExecutionProvider", "MLComputeUnits"): ("ALL", "CPUAndNeuralEngine", "CPUAndGPU", "CPUOnly"),
    ("CoreMLExecutionProvider", "SpecializationStrategy"): ("Default", "FastPrediction"),
    ("DmlExecutionProvider", "device_filter"): ("gpu", "npu", "any"),
    ("DmlExecutionProvider", "performance_preference"): ("default", "high_performance", "minimum_power"),
    ("OpenVINOExecutionProvider", "precision"): ("FP32", "FP16", "ACCURACY"),
    ("OpenVINOExecutionProvider", "model_priority"): ("LOW", "MEDIUM", "HIGH", "DEFAULT"),
    ("QNNExecutionProvider", "backend_type"): ("cpu", "gpu", "htp", "saver", "ir"),
    ("QNNExecutionProvider", "htp_graph_finalization_optimization_mode"): ("0", "1", "2", "3"),
    ("QNNExecutionProvider", "htp_performance_mode"): tuple(_HTP_MODES.split()),
    ("QNNExecutionProvider", "profiling_level"): ("off", "basic", "detailed", "optrace"),
    ("QNNExecutionProvider", "qnn_context_priority"): ("low", "normal", "normal_high", "high"),
    ("WebGpuExecutionProvider", "dawnBackendType"): ("D3D12", "Vulkan"),
    ("WebGpuExecutionProvider", "defaultBufferCacheMode"): _CACHE_MODES,
    ("WebGpuExecutionProvider", "kvCacheQuantizationBits"): ("0", "4"),
    ("WebGpuExecutionProvider", "queryResolveBufferCacheMode"): _CACHE_MODES,
    ("WebGpuExecutionProvider", "storageBufferCacheMode"): _CACHE_MODES,
    ("WebGpuExecutionProvider", "uniformBufferCacheMode"): _CACHE_MODES,
    ("WebGpuExecutionProvider", "powerPreference"): ("high-performance", "low-power"),
    ("WebGpuExecutionProvider", "preferredLayout"): ("NHWC", "NCHW"),
    ("WebGpuExecutionProvider", "validationMode"): ("disabled", "wgpuOnly", "basic", "full"),
}
"""Provider and option → the words that it takes, where it takes words only."""


def check_option(provider: str, name: str, value: object, *, file: str = "", key: str = "") -> None:
    """Refuse an option that a provider does not have, and a word that the option does not take."""
    known = OPTIONS.get(provider)
    if known is not None and name not in known:
        hint = f"options are {', '.join(known)}" if known else "it has none"
        why = f"{provider} has no option {name!r}"
        raise TargetError(why, file=file, key=key, nearest=nearest(name, known), hint=hint)
    words = VALUES.get((provider, name))
    if words is not None and str(value) not in words:
        why = f"{value!r} is not one of {', '.join(words)}"
        raise TargetError(why, file=file, key=key, nearest=nearest(str(value), words))
