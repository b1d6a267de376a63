import pytest


@pytest.fixture(scope="module")
def published_gpt2(tmp_path_factory):
    """A directory as transformers writes it, and its network."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    network = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    directory = tmp_path_factory.mktemp("gpt2")
    network.save_pretrained(directory)
    return directory, network
