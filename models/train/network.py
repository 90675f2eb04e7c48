"""Qwen3 in PyTorch, for training: bfloat16 arithmetic on float32 weights, parameters named as in the checkpoint."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The model's dimensions, as in config.json."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048

    def config(self) -> dict[str, object]:
        """config.json of a Hugging Face checkpoint."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "bos_token_id": None,
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "model_type": "qwen3",
            "tie_word_embeddings": True,
            **asdict(self),
        }


class Linear(nn.Module):
    """A matrix in float32 that multiplies in the type of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)


class Norm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes x [..., size]."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def _together(x: Tensor, *linears: Linear) -> Tensor:
    """Several matrices times x, in one multiplication."""
    return F.linear(x, torch.cat([linear.weight for linear in linears]).to(x.dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [B, T, H, D]; the two halves of a head are the pairs."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Attention(nn.Module):
    """Grouped-query attention with QK norm and RoPE."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj, self.o_proj = Linear(shape.hidden_size, width), Linear(width, shape.hidden_size)
        self.k_proj, self.v_proj = Linear(shape.hidden_size, kv), Linear(shape.hidden_size, kv)
        self.q_norm, self.k_norm = (Norm(shape.head_dim, shape.rms_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attends over x [B, T, hidden], each row a text of its own."""
        rows, length, _ = x.shape
        kv, dim = self.shape.num_key_value_heads, self.shape.head_dim
        group = self.shape.num_attention_heads // kv
        qkv = _together(x, self.q_proj, self.k_proj, self.v_proj).view(rows, length, -1, dim)
        q, k, v = qkv.split([group * kv, kv, kv], 2)
        q, k = _rotate(self.q_norm(q), cos, sin), _rotate(self.k_norm(k), cos, sin)
        if length > 512:  # the scores would not fit into the cache
            k, v = (kv.repeat_interleave(group, 2).transpose(1, 2) for kv in (k, v))
            mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)
            return _together(mixed.transpose(1, 2).reshape(rows, length, -1), self.o_proj)
        # One batch entry per key head: the queries of its group lie one after the other.
        q = q.view(rows, length, kv, group, dim).permute(0, 2, 3, 1, 4).reshape(rows * kv, group * length, dim)
        k = k.transpose(1, 2).reshape(rows * kv, length, dim)
        v = v.transpose(1, 2).reshape(rows * kv, length, dim)
        scores = torch.bmm(q, k.transpose(1, 2)).view(rows * kv, group, length, length) * dim**-0.5
        future = torch.full((length, length), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        weights = torch.softmax(scores + future, -1).view(rows * kv, group * length, length)
        mixed = torch.bmm(weights, v).view(rows, kv, group, length, dim)
        return _together(mixed.permute(0, 3, 1, 2, 4).reshape(rows, length, -1), self.o_proj)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each position of x [B, T, hidden]."""
        gate, up = _together(x, self.gate_proj, self.up_proj).chunk(2, -1)
        return _together(F.silu(gate) * up, self.down_proj)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The residual stream after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything below the logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [B, T, hidden] of ids [B, T]."""
        half = self.shape.head_dim // 2
        angles = torch.arange(ids.shape[1], device=ids.device)[:, None] * self.shape.rope_theta ** (
            -torch.arange(half, device=ids.device) / half
        )
        angles = torch.cat((angles, angles), -1)[:, None]
        cos, sin = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
        x = self.embed_tokens(ids).to(torch.bfloat16)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Network(nn.Module):
    """The whole model; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Trunk(shape)

    def loss(self, ids: Tensor, learned: Tensor) -> Tensor:
        """Sum of the cross-entropy of the tokens that are learned.

        Args:
            ids: [B, T].
            learned: [B, T], true for each token to predict.
        """
        hidden = self.model(ids)[:, :-1][learned[:, 1:]]
        logits = F.linear(hidden, self.model.embed_tokens.weight.to(hidden.dtype)).float()
        return F.cross_entropy(logits, ids[:, 1:][learned[:, 1:]], reduction="sum")
