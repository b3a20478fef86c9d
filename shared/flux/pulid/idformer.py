"""IDFormer, which turns what two face encoders saw into the 32 identity tokens that FLUX is given.

Source: PuLID for FLUX (Guo et al. 2024, "PuLID: Pure and Lightning ID Customization via Contrastive Alignment"),
`IDFormer` in pulid/encoders_transformer.py. Parameter names are those of the published weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PerceiverAttention(nn.Module):
    """Latents ask; the context and the latents themselves answer. No biases but those of the norms."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, context: Tensor, latents: Tensor) -> Tensor:
        """What the latents learn, before the residual: context [B, C, dim], latents [B, L, dim] -> [B, L, dim]."""
        latents = self.norm2(latents)
        query = self._split(self.to_q(latents))
        key, value = self.to_kv(torch.cat((self.norm1(context), latents), dim=1)).chunk(2, dim=-1)
        # As published: half of the scale on either side keeps the products small enough for fp16 and bf16, and the
        # softmax is taken in fp32.
        half_scale = query.shape[-1] ** -0.25
        scores = (query * half_scale) @ (self._split(key) * half_scale).transpose(-2, -1)
        seen = torch.softmax(scores.float(), dim=-1).to(scores.dtype) @ self._split(value)
        answer: Tensor = self.to_out(seen.transpose(1, 2).flatten(2))
        return answer

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, N, heads * head_dim] -> [B, heads, N, head_dim]."""
        batch, count, _ = tokens.shape
        return tokens.view(batch, count, self.heads, -1).transpose(1, 2)


class IDFormer(nn.Module):
    """A perceiver resampler: learned queries and identity tokens read a vision tower's features, scale after scale.

    Args:
        dim: width of the latents.
        depth: number of layers, a multiple of `scales`; each scale is read by depth / scales layers.
        heads: number of attention heads.
        head_dim: width of one head.
        queries: learned queries, which become the identity embedding.
        id_tokens: tokens made of each identity condition.
        out_dim: width of the identity embedding.
        id_dim: width of the identity condition: 512 of ArcFace and 768 of the vision tower.
        vit_dim: width of the vision tower's hidden states, and of the mappings' inner layers.
        scales: number of hidden states.
        ff_mult: inner width of the feed-forward, in multiples of `dim`.
    """

    def __init__(
        self,
        dim: int = 1024,
        depth: int = 10,
        heads: int = 16,
        head_dim: int = 64,
        queries: int = 32,
        id_tokens: int = 5,
        out_dim: int = 2048,
        id_dim: int = 1280,
        vit_dim: int = 1024,
        scales: int = 5,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        if depth % scales:
            raise ValueError(f"IDFormer's depth {depth} must be a multiple of its {scales} scales.")
        self.dim, self.id_dim, self.vit_dim = dim, id_dim, vit_dim
        self.queries, self.id_tokens = queries, id_tokens
        self.scales, self.layers_per_scale = scales, depth // scales
        self.latents = nn.Parameter(torch.randn(1, queries, dim) * dim**-0.5)
        self.proj_out = nn.Parameter(torch.randn(dim, out_dim) * dim**-0.5)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, heads, head_dim), _feed_forward(dim, ff_mult)]) for _ in range(depth)
        )
        for scale in range(scales):
            self.add_module(f"mapping_{scale}", _mapping(vit_dim, vit_dim, dim))
        self.id_embedding_mapping = _mapping(id_dim, vit_dim, dim * id_tokens)

    def forward(self, id_cond: Tensor, hidden_states: Sequence[Tensor]) -> Tensor:
        """The identity embedding.

        Args:
            id_cond: [B, id_dim], the raw ArcFace embedding and the vision tower's unit-length projected token, in this
                order; or [B, N, id_dim], several photos of one person.
            hidden_states: one [B, T, vit_dim] for each scale, early blocks first; of several photos the caller puts
                the tokens one behind the other.

        Returns:
            [B, queries, out_dim].
        """
        identity = self.id_embedding_mapping(id_cond).reshape(id_cond.shape[0], -1, self.dim)
        latents = torch.cat((self.latents.expand(id_cond.shape[0], -1, -1), identity), dim=1)
        for scale, hidden in zip(range(self.scales), hidden_states, strict=True):
            context = torch.cat((identity, self.get_submodule(f"mapping_{scale}")(hidden)), dim=1)
            for layer in range(scale * self.layers_per_scale, (scale + 1) * self.layers_per_scale):
                latents = latents + self.get_submodule(f"layers.{layer}.0")(context, latents)
                latents = latents + self.get_submodule(f"layers.{layer}.1")(latents)
        return latents[:, : self.queries] @ self.proj_out

    def unconditional(self, batch: int = 1, vit_tokens: int = 577) -> Tensor:
        """The embedding of nobody, for the negative branch of true CFG: [batch, queries, out_dim].

        It is the encoder run on all-zero inputs, not an embedding of zeros. The number of the vision tower's tokens
        matters: zeros are mapped to one and the same token, and the softmax counts how often it stands there.
        """
        id_cond = self.latents.new_zeros(batch, self.id_dim)
        hidden = self.latents.new_zeros(batch, vit_tokens, self.vit_dim)
        embedding: Tensor = self(id_cond, [hidden] * self.scales)
        return embedding


def _feed_forward(dim: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, mult * dim, bias=False),
        nn.GELU(),
        nn.Linear(mult * dim, dim, bias=False),
    )


def _mapping(dim: int, inner: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, inner),
        nn.LayerNorm(inner),
        nn.LeakyReLU(),
        nn.Linear(inner, inner),
        nn.LayerNorm(inner),
        nn.LeakyReLU(),
        nn.Linear(inner, out),
    )
