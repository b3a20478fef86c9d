"""The editing engines of generate.text_to_image: they see the subject's photos beside the prompt."""
