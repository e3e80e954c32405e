"""Tiny random models of many `transformers` families: (kind of loss, class, config, the config's fields)."""

import torch
import transformers

COMMON = {"vocab_size": 19, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    **COMMON,
    **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12},
    "max_position_embeddings": 16,
}
GQA = {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
GPT = {"vocab_size": 19, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
EXPERTS = {
    **{"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 6, "shared_expert_intermediate_size": 6, "first_k_dense_replace": 0},
    **{"n_group": 2, "topk_group": 1},
}
LATENT = {
    **{"kv_lora_rank": 4, "q_lora_rank": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "qk_nope_head_dim": 4},
    **{"num_key_value_heads": 4, "num_attention_heads": 4},
}
MAMBA = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 3}
MAMBA_2 = {"mamba_n_heads": 4, "mamba_d_head": 4, "mamba_n_groups": 2, "mamba_d_state": 3, "mamba_chunk_size": 4}
BART = {
    **COMMON,
    **{"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 16},
    "decoder_start_token_id": 2,
}
T5 = {"vocab_size": 19, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2} | {
    "decoder_start_token_id": 0
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 4}


def _by_name(kind, suffix, base, names, **fields):
    return {name: (kind, f"{name}{suffix}", f"{name}Config", {**base, **fields}) for name in names.split()}


FAMILIES = {
    "GPT2": ("causal", "GPT2LMHeadModel", "GPT2Config", GPT),
    **_by_name("causal", "ForCausalLM", GPT, "GPTBigCode"),
    **_by_name("causal", "ForCausalLM", GPT, "GPTJ", rotary_dim=2),
    **_by_name("causal", "ForCausalLM", GPT, "CodeGen", rotary_dim=2, n_head=4),
    "CTRL": ("causal", "CTRLLMHeadModel", "CTRLConfig", GPT | {"dff": 12}),
    "OpenAIGPT": ("causal", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", GPT),
    **_by_name("causal", "ForCausalLM", GQA, "Llama Mistral Qwen2 Qwen3 Gemma Phi3 Olmo Olmo2 Cohere Granite"),
    **_by_name("causal", "ForCausalLM", GQA, "Starcoder2 Nemotron SmolLM3 Glm Glm4 Ernie4_5 Arcee Apertus Exaone4"),
    **_by_name("causal", "ForCausalLM", GQA, "DiffLlama Olmo3 Cohere2", sliding_window=3),
    **_by_name("causal", "ForCausalLM", GQA, "StableLm Helium", head_dim=2),
    **_by_name("causal", "ForCausalLM", GQA, "Olmoe", **EXPERTS | {"head_dim": 2}),
    "Gemma2": (
        *("causal", "Gemma2ForCausalLM", "Gemma2Config"),
        GQA | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0, "sliding_window": 3},
    ),
    "Gemma3": ("causal", "Gemma3ForCausalLM", "Gemma3TextConfig", GQA | {"sliding_window": 3}),
    **_by_name("causal", "ForCausalLM", LLAMA, "Phi GPTNeoX Persimmon BioGpt", num_hidden_layers=2),
    "tied Llama": ("causal", "LlamaForCausalLM", "LlamaConfig", GQA | {"tie_word_embeddings": True}),
    **_by_name("causal", "ForCausalLM", GQA, "Mixtral Qwen2Moe Qwen3Moe GptOss Phimoe Glm4Moe", **EXPERTS),
    "GraniteMoe": ("causal", "GraniteMoeForCausalLM", "GraniteMoeConfig", GQA | EXPERTS),
    "JetMoe": ("causal", "JetMoeForCausalLM", "JetMoeConfig", GQA | EXPERTS | {"kv_channels": 4}),
    **_by_name("causal", "ForCausalLM", LLAMA, "DeepseekV3", **EXPERTS, **LATENT),
    "DeepseekV2": (
        *("causal", "DeepseekV2ForCausalLM", "DeepseekV2Config"),
        LLAMA | EXPERTS | LATENT | {"topk_method": "greedy"},
    ),
    "Llama4": ("causal", "Llama4ForCausalLM", "Llama4TextConfig", GQA | EXPERTS | {"intermediate_size_mlp": 12}),
    "OPT": ("causal", "OPTForCausalLM", "OPTConfig", LLAMA | {"ffn_dim": 12, "word_embed_proj_dim": 8}),
    "OPT, projected": ("causal", "OPTForCausalLM", "OPTConfig", LLAMA | {"ffn_dim": 12, "word_embed_proj_dim": 4}),
    "GPTNeo": (
        *("causal", "GPTNeoForCausalLM", "GPTNeoConfig"),
        LLAMA | {"num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 3},
    ),
    "Bloom": ("causal", "BloomForCausalLM", "BloomConfig", COMMON | {"hidden_size": 8, "n_layer": 1, "n_head": 2}),
    **_by_name("causal", "ForCausalLM", LLAMA, "Falcon"),
    "Falcon, ALiBi": ("causal", "FalconForCausalLM", "FalconConfig", LLAMA | {"alibi": True}),
    "Mpt": ("causal", "MptForCausalLM", "MptConfig", {"vocab_size": 19, "d_model": 8, "n_layers": 1, "n_heads": 2}),
    "XLNet": (
        *("causal", "XLNetLMHeadModel", "XLNetConfig"),
        {"vocab_size": 19, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 12},
    ),
    **_by_name("causal", "ForCausalLM", MAMBA, "Mamba FalconMamba"),
    **_by_name("causal", "ForCausalLM", MAMBA, "Mamba2", num_heads=4, head_dim=4, n_groups=2, chunk_size=4),
    **_by_name("causal", "ForCausalLM", GQA, "Bamba", **MAMBA_2, attn_layer_indices=[]),
    **_by_name("causal", "ForCausalLM", GQA, "FalconH1", **MAMBA_2, mamba_d_ssm=16),
    **_by_name("causal", "ForCausalLM", GQA, "Lfm2", layer_types=["conv"], conv_L_cache=3),
    **_by_name("causal", "ForCausalLM", GQA, "RecurrentGemma", lru_width=8, block_types=["recurrent"]),
    "Rwkv": (
        *("causal", "RwkvForCausalLM", "RwkvConfig"),
        {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 2, "attention_hidden_size": 8, "context_length": 16},
    ),
    **_by_name(
        "masked", "ForMaskedLM", LLAMA, "Bert Roberta MPNet XLMRoberta Camembert ConvBert FNet RoFormer RemBert"
    ),
    **_by_name("masked", "ForMaskedLM", LLAMA, "MegatronBert IBert EuroBert Data2VecText"),
    **_by_name("masked", "ForMaskedLM", LLAMA, "Electra Albert", embedding_size=4),
    **_by_name("masked", "ForMaskedLM", LLAMA, "SqueezeBert", embedding_size=8),
    **_by_name("masked", "ForMaskedLM", LLAMA, "Deberta DebertaV2", **DEBERTA),
    **_by_name("masked", "ForMaskedLM", LLAMA, "ModernBert", cls_token_id=1, sep_token_id=2, local_attention=4),
    **_by_name("masked", "ForMaskedLM", LLAMA, "Esm", mask_token_id=4, position_embedding_type="rotary"),
    **_by_name("masked", "ForMaskedLM", LLAMA, "Longformer", attention_window=4),
    **_by_name("masked", "ForMaskedLM", LLAMA, "BigBird", block_size=2, num_random_blocks=1),
    **_by_name("masked", "ForMaskedLM", LLAMA, "MobileBert", embedding_size=8, intra_bottleneck_size=8),
    **_by_name("masked", "ForMaskedLM", LLAMA, "Xmod", languages=["en"], default_language="en"),
    "DistilBert": (
        *("masked", "DistilBertForMaskedLM", "DistilBertConfig"),
        {"vocab_size": 19, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 16},
    ),
    "Funnel": (
        *("masked", "FunnelForMaskedLM", "FunnelConfig"),
        {"vocab_size": 19, "block_sizes": [1, 1], "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 12},
    ),
    "T5": ("seq2seq", "T5ForConditionalGeneration", "T5Config", T5),
    "T5, gated": (
        *("seq2seq", "T5ForConditionalGeneration", "T5Config"),
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    **_by_name("seq2seq", "ForConditionalGeneration", T5, "MT5 UMT5"),
    **_by_name("seq2seq", "ForConditionalGeneration", T5, "LongT5", local_radius=3),
    **_by_name(
        *("seq2seq", "ForConditionalGeneration", T5, "SwitchTransformers"),
        **{"num_experts": 4, "expert_capacity": 32, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    **_by_name(
        "seq2seq", "ForConditionalGeneration", BART, "Bart MBart Pegasus BlenderbotSmall Blenderbot M2M100 PLBart"
    ),
    "Marian": ("seq2seq", "MarianMTModel", "MarianConfig", BART),
    "LED": (
        *("seq2seq", "LEDForConditionalGeneration", "LEDConfig"),
        BART | {"attention_window": 4, "max_encoder_position_embeddings": 16, "max_decoder_position_embeddings": 16},
    ),
}


def make(name, dtype=torch.float64, noise=0.15, **changes):
    """(kind, model): with noise on every weight, so that none is 0 or 1; the global generator is put back."""
    kind, model_class, config_class, fields = FAMILIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, config_class)(**fields | changes)
        model = getattr(transformers, model_class)(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
    return kind, model.eval()


def batch(kind, rows=2, length=8):
    """Tokens with ignored labels, and padding on the right of the last row."""
    ids = torch.randint(5, 19, (rows, length), generator=torch.Generator().manual_seed(1))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :3] = -100
    mask[-1, length - 2 :] = 0
    labels[-1, length - 2 :] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
