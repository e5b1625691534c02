"""Put operators into families: every operator of the standard, and of ONNX Runtime, is of exactly one type.

The type says what an operator is for, not which kernel runs it (``cost.kinds`` knows that): the quantized, fused and
blocked forms of a convolution are convolutions.  Types stand in the order in which they lend a subgraph its name: what
becomes an attention is called one, although it has matrix products and a softmax inside.

Operators of domains that nobody knows are ``OTHER``.  Considered and rejected: a type from the operands of a node, such
as embedding for a ``Gather`` on a constant.  Counts would differ before and after folding, for equal operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from compiler.ir.schema import operator_names


class OperatorType(StrEnum):
    """A family of operators; the value is how it is written, and the order is that of weight."""

    ATTENTION = "attention"
    """Scaled dot-product attention in all its forms, with caches, and the position encodings made for it."""
    RECURRENT = "recurrent"
    """Recurrent layers and state-space layers: what goes through a sequence step by step."""
    CONVOLUTION = "convolution"
    """Convolutions, transposed, fused and quantized ones included."""
    MATRIX_MULTIPLICATION = "matrix multiplication"
    """Products of matrices, fused, quantized, block-quantized, and mixtures of experts."""
    NORMALIZATION = "normalization"
    """Normalizations, softmax among them, with residual sums fused in."""
    POOLING = "pooling"
    """Pooling over windows, regions, or everything."""
    ACTIVATION = "activation"
    """Functions of one operand that follow a layer, bias fused in."""
    RESAMPLING = "resampling"
    """Resizing, sampling on grids, and what else is done to images."""
    QUANTIZATION = "quantization"
    """To and from quantized numbers."""
    REDUCTION = "reduction"
    """Sums, means and extremes along axes, and running ones."""
    LOOKUP = "embedding and lookup"
    """Taking from, and putting to, places that indices name."""
    SEARCH = "search"
    """Sorting, selecting, and finding places."""
    ELEMENT_WISE = "element-wise"
    """Arithmetic, comparisons and logic of elements."""
    DATA_MOVEMENT = "data movement"
    """Copies in another order, joined, cut, padded or repeated."""
    CONVERSION = "conversion"
    """Changes of the element type."""
    SHAPE = "shape"
    """Other views of the same data, and the shape itself."""
    CONSTANT = "constant"
    """Values that come from nowhere: constants, ranges, random numbers."""
    SIGNAL = "signal"
    """Fourier transforms, windows and spectra."""
    LINEAR_ALGEBRA = "linear algebra"
    """Determinants and inverses."""
    CONTROL_FLOW = "control flow"
    """Branches, loops, and searches that run a model again and again."""
    SEQUENCE = "sequence"
    """Lists and optional values."""
    TEXT = "text"
    """Strings."""
    MACHINE_LEARNING = "classical machine learning"
    """Trees, vector machines, encoders and scalers."""
    TRAINING = "training"
    """Losses, gradients, optimizers and dropout."""
    DEVICE = "device"
    """Copies between devices, and compiled subgraphs that only one device reads."""
    OTHER = "other"
    """Operators of which nothing is known."""


_TYPES: dict[OperatorType, Iterable[str]] = {
    OperatorType.ATTENTION: operator_names("""
        Attention FlexAttention LinearAttention RotaryEmbedding MultiHeadAttention GroupQueryAttention QAttention
        DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DynamicSparseAttention
        GatedRelativePositionBias GemmaRotaryEmbedding LinearAttentionGate LongformerAttention MRotaryEmbedding
        PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer PackedSparseAttentionIndexerMerge
        PagedAttention QOrderedAttention QOrderedLongformerAttention RMSNormRotary RelativePositionBias RemovePadding
        RestorePadding SparseAttention SparseAttentionIndexer SparsePagedAttention SpeculativePrefixCommit
        DisentangledAttention_TRT
    """),
    OperatorType.RECURRENT: operator_names("""
        LSTM GRU RNN AttnLSTM DynamicQuantizeLSTM GRUUnit CausalConvWithState VarlenCausalConvWithState ConvStateReplay
        GatedDeltaNet GatedDeltaNetStateReplay Mamba2Verify
    """),
    OperatorType.CONVOLUTION: operator_names("""
        Conv ConvTranspose ConvInteger QLinearConv QLinearConvTranspose DeformConv FusedConv NhwcConv NhwcFusedConv
        ConvTransposeWithDynamicPads WordConvEmbedding
    """),
    OperatorType.MATRIX_MULTIPLICATION: operator_names("""
        MatMul Gemm Einsum MatMulInteger QLinearMatMul FusedMatMul FusedGemm TransposeMatMul MatMulInteger16
        MatMulIntegerToFloat DynamicQuantizeMatMul QGemm GemmFastGelu GemmFloat8 FusedMatMulActivation MatMulBnb4
        MatMulFpQ4 MatMulNBits MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv MatMulPacked MatMulBlockQuantizedFp4Weight
        MatMulBlockQuantizedFp8Weight QOrderedMatMul SparseToDenseMatMul MoE QMoE MoEPacked MoEGroupRouter
        RouterGateUpProj HyperConnectionLowRankMix
    """),
    OperatorType.NORMALIZATION: operator_names("""
        LayerNormalization RMSNormalization GroupNormalization InstanceNormalization BatchNormalization LpNormalization
        MeanVarianceNormalization LRN Softmax LogSoftmax Hardmax SimplifiedLayerNormalization SkipLayerNormalization
        SkipSimplifiedLayerNormalization GroupNorm SkipGroupNorm BiasSoftmax QLinearSoftmax QOrderedLayerNormalization
        BranchwiseRMSNorm GatedRMSNorm
    """),
    OperatorType.POOLING: operator_names("""
        MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool MaxRoiPool RoiAlign MaxUnpool
        NhwcMaxPool MaxpoolWithMask QLinearAveragePool QLinearGlobalAveragePool PyramidROIAlign_TRT
    """),
    OperatorType.ACTIVATION: operator_names("""
        Relu LeakyRelu PRelu ThresholdedRelu Elu Selu Celu Sigmoid HardSigmoid Tanh Softplus Softsign Gelu Swish
        HardSwish Mish SwiGLU Shrink BiasGelu BiasSplitGelu FastGelu QuickGelu QOrderedGelu QLinearLeakyRelu
        QLinearSigmoid ScaledSiLU ParametricSoftplus ScaledTanh EngramGate
    """),
    OperatorType.RESAMPLING: operator_names("""
        Resize Upsample GridSample AffineGrid CenterCropPad ImageDecoder Col2Im CropAndResize UnfoldTensor Crop
        ImageScaler MultilevelCropAndResize_TRT
    """),
    OperatorType.QUANTIZATION: operator_names("""
        QuantizeLinear DequantizeLinear DynamicQuantizeLinear QuantizeBFP DequantizeBFP QuantizeWithOrder
        DequantizeWithOrder
    """),
    OperatorType.REDUCTION: operator_names("""
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare ArgMax ArgMin CumSum CumProd ReduceSumInteger QLinearReduceMean IsAllFinite
    """),
    OperatorType.LOOKUP: operator_names("""
        Gather GatherElements GatherND Scatter ScatterElements ScatterND TensorScatter OneHot Compress ReverseSequence
        EmbedLayerNormalization QEmbedLayerNormalization GatherBlockQuantized GatherPacked TorchEmbedding
        NGramHashMapping VarlenNGramHashMapping MurmurHash3
    """),
    OperatorType.SEARCH: operator_names("""
        TopK Unique NonZero NonMaxSuppression EfficientNMS_TRT DynamicTimeWarping BifurcationDetector NGramRepeatBlock
    """),
    OperatorType.ELEMENT_WISE: operator_names("""
        Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip Cos
        Cosh Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Log Max Mean Min Mod Mul Neg
        Not Or Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan Where Xor BiasAdd GatedAdd CDist ComplexMul
        ComplexMulConj MulInteger QLinearAdd QLinearMul QLinearWhere SampleOp Affine Scale HyperConnectionPostMix
        HyperConnectionPreMix
    """),
    OperatorType.DATA_MOVEMENT: operator_names("""
        Transpose Concat Split Slice Pad Tile Expand DepthToSpace SpaceToDepth Trilu QLinearConcat DynamicSlice
        ReorderInput ReorderOutput
    """),
    OperatorType.CONVERSION: operator_names("Cast CastLike BitCast"),
    OperatorType.SHAPE: operator_names("Reshape Squeeze Unsqueeze Flatten Identity Shape Size ExpandDims"),
    OperatorType.CONSTANT: operator_names("""
        Constant ConstantOfShape Range EyeLike GivenTensorFill RandomNormal RandomNormalLike RandomUniform
        RandomUniformLike Multinomial Bernoulli
    """),
    OperatorType.SIGNAL: operator_names("""
        DFT STFT HannWindow HammingWindow BlackmanWindow MelWeightMatrix Rfft Irfft
    """),
    OperatorType.LINEAR_ALGEBRA: operator_names("Det Inverse"),
    OperatorType.CONTROL_FLOW: operator_names("""
        If Loop Scan SequenceMap BeamSearch WhisperBeamSearch GreedySearch Sampling
    """),
    OperatorType.SEQUENCE: operator_names("""
        SequenceConstruct SequenceEmpty SequenceAt SequenceErase SequenceInsert SequenceLength SplitToSequence
        ConcatFromSequence Optional OptionalGetElement OptionalHasElement
    """),
    OperatorType.TEXT: operator_names("""
        StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer Tokenizer
    """),
    OperatorType.TRAINING: operator_names("""
        Dropout BiasDropout BitmaskDropout BitmaskBiasDropout NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss Gradient
        Adagrad Adam Momentum
    """),
    OperatorType.DEVICE: operator_names("MemcpyFromHost MemcpyToHost EPContext Snpe"),
}

_TYPE_OF = {op: kind for kind, ops in _TYPES.items() for op in ops}

_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft"}
    | {"com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
"""Domains in which a name means what it means in the standard or in ONNX Runtime."""


def operator_type(op: str, domain: str = "") -> OperatorType:
    """Return the type of an operator, ``OTHER`` when nothing is known of it."""
    if domain == "ai.onnx.ml":
        return OperatorType.MACHINE_LEARNING
    return _TYPE_OF.get(op, OperatorType.OTHER) if domain in _DOMAINS else OperatorType.OTHER


def type_of_qualified(name: str) -> OperatorType:
    """Return the type of an operator that is written with its domain, ``com.microsoft::Gelu``; ai.onnx has none."""
    domain, _, op = name.rpartition("::")
    return operator_type(op, domain)


def counts_by_type(operators: dict[str, int]) -> dict[OperatorType, int]:
    """Return the number of nodes of each type that occurs, in the order of types, from those of each operator."""
    found: dict[OperatorType, int] = {}
    for name, count in operators.items():
        kind = type_of_qualified(name)
        found[kind] = found.get(kind, 0) + count
    return {kind: found[kind] for kind in OperatorType if kind in found}


def weightiest(kinds: Iterable[OperatorType]) -> OperatorType:
    """Return the type that lends a group of nodes its name: the first in order, ``OTHER`` when there is none."""
    order = list(OperatorType)
    return min(kinds, key=order.index, default=OperatorType.OTHER)
