"""What the tests of the quantizers do with a tiny model on a processor."""

import torch

IDS = torch.arange(4, 24)[None]


def forward(model, autocast=False):
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        return model(IDS.to(model.device)).logits


def input_gradient(model, autocast=False):
    """The gradient of the summed squares of the logits with respect to the embedded inputs, and the logits."""
    embedded = model.get_input_embeddings()(IDS.to(model.device)).detach().requires_grad_()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        logits = model(inputs_embeds=embedded).logits
    logits.float().square().sum().backward()
    return embedded.grad, logits.detach()


def left_by_two_steps(policy, adapter, autocast):
    """The names of the adapter's tensors, and of those that two steps of training did not change."""
    state = adapter.state(policy)
    before = {name: tensor.clone() for name, tensor in state.items()}
    optimizer = torch.optim.SGD([weight for weight in policy.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = policy(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return set(state), {name for name in state if torch.equal(state[name], before[name])}
