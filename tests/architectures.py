"""Tiny random models of many architectures, made from configurations alone, and what is tried on each."""
import torch
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

THINGS = "phone camera router screen battery case".split()
WORDS = {"good": "good great lovely".split(), "bad": "bad awful broken".split()}
TEXTS, LABELS = zip(*[
    (f"the {thing} is {word}", label) for thing in THINGS for label, words in WORDS.items() for word in words
])
ASKED = [*TEXTS[:3], "a phone whose screen and battery and router are all lovely, but the manual is not", "case"]

SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, head_dim=8,
    max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=1, embedding_size=32, hidden_dim=48,
    d_ff=48, d_kv=8, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_layers=2, decoder_layers=2, num_decoder_layers=2,
    encoder_attention_heads=4, decoder_attention_heads=4, initializer_range=0.2, init_std=0.2,
)
EXPERTS = dict(
    num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, n_routed_experts=4,
    n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1, shared_expert_intermediate_size=24,
)
LATENT = dict(
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4
)
PICTURES = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
)


def mixed(text, rope=None, **vision):
    """A configuration with a language model of a known kind beside a vision tower."""
    turns = dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=rope)) if rope else {}
    return dict(text_config=dict(model_type=text) | turns, vision_config=PICTURES | vision, sizes=False)


PLAIN = (
    # encoders
    "bert big_bird convbert deberta deberta-v2 distilbert esm "
    "fnet ibert modernbert mpnet nystromformer rembert roberta "
    "xlm eurobert nomic_bert longformer albert "
    # encoder-decoders, of which the encoder is read
    "t5 longt5 switch_transformers bart m2m_100 bigbird_pegasus "
    # decoders
    "llama mistral qwen3 gemma2 gemma3_text phi phi3 gpt2 gpt_neox bloom "
    "olmo2 cohere granite apertus "
    "modernbert-decoder openai-gpt "
    # mixtures of experts
    "mixtral qwen2_moe olmoe gpt_oss "
    # states in the place of attention, or beside it
    "mamba recurrent_gemma rwkv lfm2 falcon_h1"
)
CHANGED = {
    "longformer": dict(attention_window=[8, 8]),
    "switch_transformers": dict(num_sparse_encoder_layers=2),
    "xlnet": dict(max_position_embeddings=None, d_head=8),
    "opt": dict(word_embed_proj_dim=16, ffn_dim=48), "falcon": dict(head_dim=None), "gptj": dict(rotary_dim=8),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]]),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2),
    "mamba2": dict(num_heads=8, n_groups=2, head_dim=8, chunk_size=8), "deepseek_v3": LATENT,
    "qwen3_next": dict(
        layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    ),
    "falcon_h1": dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8),
    "modernbert-decoder": dict(local_attention=512),
    "recurrent_gemma": dict(num_hidden_layers=3, lru_width=32, attention_window_size=128),
    "gemma3n_text": dict(
        num_hidden_layers=4, num_kv_shared_layers=2, hidden_size_per_layer_input=8, vocab_size_per_layer_input=300,
        layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.0] * 4, laurel_rank=8,
        altup_num_inputs=2, intermediate_size=[48] * 4,
    ),
    "funnel": dict(
        block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=48, hidden_size=None, num_hidden_layers=None,
        num_attention_heads=None, max_position_embeddings=None, architectures=["FunnelModel"],
    ),
    "llava": mixed("llama", model_type="clip_vision_model"), "mistral3": mixed("mistral", model_type="pixtral"),
    "gemma3": mixed("gemma3_text", model_type="siglip_vision_model"),
    "qwen2_vl": mixed("qwen2_vl_text", rope=[1, 1, 2]), "qwen3_vl": mixed("qwen3_vl_text"),
}
NAMES = [*PLAIN.split(), *(name for name in CHANGED if name not in PLAIN.split())]


def configuration(name, words):
    """The configuration of a tiny model of a kind, for `words` tokens."""
    changed = dict(CHANGED.get(name, {}))
    sizes = SIZES | EXPERTS | dict(vocab_size=words) if changed.pop("sizes", True) else {}
    if "text_config" in changed:
        changed["text_config"] = SIZES | EXPERTS | changed["text_config"] | dict(vocab_size=words)
    values = {key: value for key, value in (sizes | changed).items() if value is not None}
    return CONFIG_MAPPING[name](**values)


def save_base(name, folder, tokenizer):
    """Write a tiny random model of a kind, with a language-model head where there is one."""
    config = configuration(name, len(tokenizer))
    speaking = AutoModelForCausalLM, AutoModelForImageTextToText
    kinds = [kind for kind in speaking if type(config) in kind._model_mapping]
    torch.manual_seed(0)
    (AutoModel if config.is_encoder_decoder or not kinds else kinds[0]).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tokenizer():
    """A tokenizer of bytes and pieces, without a limit of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel()
    words.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


QUICK = dict(epochs=1, batch_size=16, learning_rate=1e-3)
RECIPES = {
    "read": dict(name="read", head=dict(name="logistic", C=1.0)),
    "below": dict(name="below", pooler=dict(name="mean", layer=1), head=dict(name="logistic", C=1.0)),
    "train": dict(name="train", selector="full", head="linear", training=QUICK),
    "few rows": dict(
        name="few rows", selector=dict(name="gradient-sparse", cost=None, weights=0.1, lowest=1), head="linear",
        training=QUICK,
    ),
    "adapters": dict(name="adapters", selector=dict(name="lora", rank=4), pooler="last", head="linear", training=QUICK),
    "4 bits": dict(
        name="4 bits", quantizer="nf4", selector=dict(name="lora", rank=4), pooler="last", head="linear", training=QUICK
    ),
    "ask": dict(name="ask", format="instruction", pooler="answers", head="verbalizer"),
}
