"""RestoreFormer++, which spandrel does not know: RestoreFormer whose decoder looks back at a second scale.

Source: wzhouxiff/RestoreFormerPlusPlus, `VQVAEGANMultiHeadTransformer(head_size=4, ex_multi_scale_num=1)`: 4 heads in
place of 8, and attention to the encoder's features at 32 x 32 as well as at 16 x 16. All its modules are spandrel's.
"""

from collections.abc import Mapping
from typing import Any

from spandrel import ImageModelDescriptor, SizeRequirements
from spandrel.architectures.RestoreFormer import RestoreFormer, RestoreFormerArch
from spandrel.architectures.RestoreFormer.__arch import restoreformer_arch
from torch import Tensor

HEADS = 4
SIDE_PX = 512
COARSEST = 16
"""Of the features at the bottom: that scale has attention in RestoreFormer, too."""


class RestoreFormerPlusPlus(RestoreFormer):  # type: ignore[misc] # not annotated
    """The network. Its sizes are those of RestoreFormer unless said otherwise.

    Args:
        sizes: of `spandrel.architectures.RestoreFormer.RestoreFormer`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes, head_size=HEADS)
        encoder = self.encoder
        self.decoder = restoreformer_arch.MultiHeadDecoderTransformer(
            ch=encoder.ch,
            out_ch=sizes.get("out_ch", 3),
            ch_mult=sizes.get("ch_mult", (1, 2, 2, 4, 4, 8)),
            num_res_blocks=encoder.num_res_blocks,
            attn_resolutions=(COARSEST, 2 * COARSEST),
            in_channels=encoder.in_channels,
            resolution=SIDE_PX,
            z_channels=sizes.get("z_channels", 256),
            enable_mid=encoder.enable_mid,
            head_size=HEADS,
        )

    def encode(self, x: Tensor) -> tuple[Any, ...]:
        """As RestoreFormer; the finer scale's features stand under the name that the decoder looks for."""
        quantised, loss, info, features = super().encode(x)
        finer = f"block_{self.encoder.num_resolutions - 2}"
        return quantised, loss, info, {**features, f"{finer}_atten": features[finer]}


class RestoreFormerPlusPlusArch(RestoreFormerArch):  # type: ignore[misc] # not annotated
    """Tells its weights from RestoreFormer's by the second scale's attention, and reads its sizes off them."""

    @property
    def id(self) -> str:
        """Its name."""
        return "RestoreFormer++"

    def detect(self, state_dict: Mapping[str, Any]) -> bool:
        """Whether these names are of its tensors."""
        scales = _count(state_dict, "encoder.down")
        return super().detect(state_dict) and f"decoder.up.{scales - 2}.attn.0.q.weight" in state_dict

    def load(self, state_dict: Mapping[str, Any]) -> Any:
        """The network with these weights.

        Raises:
            RuntimeError: some are missing, too many or of another shape.
            KeyError: so many are missing that its sizes cannot be told.
        """
        first = state_dict["encoder.conv_in.weight"].shape
        codes = state_dict["quantize.embedding.weight"].shape
        latent = state_dict["quant_conv.weight"].shape[1]
        network = RestoreFormerPlusPlus(
            n_embed=codes[0],
            embed_dim=codes[1],
            z_channels=latent,
            ch=first[0],
            in_channels=first[1],
            out_ch=state_dict["decoder.conv_out.weight"].shape[0],
            ch_mult=tuple(
                state_dict[f"encoder.down.{scale}.block.0.conv2.weight"].shape[0] // first[0]
                for scale in range(_count(state_dict, "encoder.down"))
            ),
            num_res_blocks=_count(state_dict, "encoder.down.0.block"),
            double_z=state_dict["encoder.conv_out.weight"].shape[0] == 2 * latent,
            enable_mid="encoder.mid.block_1.norm1.weight" in state_dict,
        )
        return ImageModelDescriptor(
            network,
            state_dict,
            architecture=self,
            purpose="FaceSR",
            tags=[],
            supports_half=False,
            supports_bfloat16=True,
            scale=1,
            input_channels=first[1],
            output_channels=3,
            size_requirements=SizeRequirements(multiple_of=32),
        )


def _count(names: Mapping[str, Any], prefix: str) -> int:
    """How many numbered modules there are below a name."""
    dots = prefix.count(".") + 1
    return len({name.split(".")[dots] for name in names if name.startswith(f"{prefix}.")})
