import torch

# Tests run side by side, one process a core.
torch.set_num_threads(1)
