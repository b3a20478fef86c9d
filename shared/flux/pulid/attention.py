"""The cross-attention by which PuLID's identity tokens speak to FLUX's image tokens.

Source: PuLID for FLUX (Guo et al. 2024, "PuLID: Pure and Lightning ID Customization via Contrastive Alignment"),
`PerceiverAttentionCA`. Parameter names are those of the published weights.
"""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PerceiverAttentionCA(nn.Module):
    """Image tokens ask, identity tokens answer. No position, no time step, no biases but those of the norms.

    Args:
        dim: width of the image tokens, 3072 in FLUX.1.
        id_dim: width of the identity tokens, 2048 as IDFormer makes them.
        heads: number of attention heads.
        head_dim: width of one head.
    """

    def __init__(self, dim: int = 3072, id_dim: int = 2048, heads: int = 16, head_dim: int = 128) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm1 = nn.LayerNorm(id_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(id_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, identity: Tensor, image: Tensor) -> Tensor:
        """What the identity adds to the image tokens, before the weight.

        Args:
            identity: [B, N, id_dim] identity tokens.
            image: [B, T, dim] image tokens.

        Returns:
            [B, T, dim], to be multiplied by the weight and added to `image`.
        """
        query = self.to_q(self.norm2(image))
        key, value = self.to_kv(self.norm1(identity)).chunk(2, dim=-1)
        # Its scale head_dim^-1/2 is the published head_dim^-1/4 on q and on k, and its softmax is taken in fp32 as
        # there, whatever the dtype of the tokens.
        seen = scaled_dot_product_attention(self._split(query), self._split(key), self._split(value))
        answer: Tensor = self.to_out(seen.transpose(1, 2).flatten(2))
        return answer

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, N, heads * head_dim] -> [B, heads, N, head_dim]."""
        batch, count, _ = tokens.shape
        return tokens.view(batch, count, self.heads, -1).transpose(1, 2)
