"""What captioners are asked about a crop. The paper gives no prompt; these are ours. Any other text serves as well."""

PROMPTS = {
    # The default: the name of the thing with what strikes the eye, about the length of the names to be found.
    "short": "Describe the object in this image in a few words.",
    # As a vocabulary has it, without colours and places.
    "name": "What is the main object in this image? Answer with its name only.",
    # Richer texts, for pools whose prototypes should tell like things apart.
    "attributes": "Describe the object in this image in one sentence: what it is, its colour, material and parts.",
}


def prompt_text(prompt) -> str:
    """The prompt of a name of `PROMPTS`; any other text as it is."""
    return PROMPTS.get(prompt, prompt)
