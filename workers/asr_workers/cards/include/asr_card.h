/*
 * asr_card.h - the interface between asr-pool and a speech recognition card. ABI version 1.0.
 *
 * A card holds one compiled RNN-T model and numbered slots. A slot holds the state of one stream: the last samples of
 * the front end, the LSTM states of encoder and predictor, the last predictor output and a step counter. The host
 * submits chunks of 60 ms for many slots in one call and polls for their completions. A vendor's adapter is a shared
 * library that exports exactly the functions of this header; nothing else is required of it.
 *
 * VERSIONS. asr_card_abi_version() is called first. The host works with a library of the same major version and the
 * same or a higher minor version. Every struct that the library fills begins with `struct_size`, set by the host: the
 * library writes no more than that many bytes, so a later minor version may append fields.
 *
 * STATUS CODES. Every function returns ASR_CARD_OK or a positive code below; codes from 1000 on are the vendor's own.
 * asr_card_last_error() gives a sentence for the last failure of the calling thread. After ASR_CARD_E_LINK or
 * ASR_CARD_E_RESET as the result of a call (not of one completion), only health and close are certain to work.
 *
 * MEMORY. Each side frees the memory that it allocated. The library copies its arguments before a call returns and
 * keeps no pointer to them; it writes only into the caller's buffers. Strings are UTF-8 and zero terminated.
 *
 * BLOCKING. asr_card_submit and asr_card_submit_features never wait for the card. asr_card_poll waits at most its
 * timeout. asr_card_load, asr_card_open and asr_card_close may take seconds. All others return immediately.
 *
 * THREADS. Functions without a card may be called from any thread. Calls on one card may come from any thread: the
 * library serializes them. asr_card_poll may run in one thread while others call any function but asr_card_close; two
 * threads never poll one card at the same time. While asr_card_load runs, new calls on the same card return
 * ASR_CARD_E_BUSY; only asr_card_get_health works. asr_card_close must be the last call on a card. The library installs
 * no signal handler. An open card is not usable after fork() in the child, which must open its own card.
 *
 * ORDER. Chunks of one slot are computed and completed in the order in which they were submitted, each exactly once;
 * there is no order between slots. The result of a chunk depends only on the chunks of its slot since open or reset,
 * not on other slots.
 *
 * AUDIO. 16 kHz mono, signed 16 bit, ASR_CARD_CHUNK_SAMPLES samples in a chunk; the caller pads the last chunk of an
 * utterance with zeros. The card's front end is: samples / 32768, (window - 160) zeros before the first chunk,
 * pre-emphasis x[n] - 0.97 x[n-1], frames of `window` samples every 160, Hann window 0.5 (1 - cos(2 pi (n + 0.5) /
 * window)), 512-point power spectrum, 80 mel bands (the mel scale of Slaney 1998, Auditory Toolbox, from 0 to 8000 Hz,
 * triangles linear in Hz, each times 2 / its width in Hz), natural logarithm (floor 1e-20), (x - mean) / sqrt(variance)
 * from the model, frames stacked into the encoder's input. One chunk is six mel frames and one encoder step. No dither.
 */
#ifndef ASR_CARD_H
#define ASR_CARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define ASR_CARD_API __declspec(dllexport)
#else
#define ASR_CARD_API __attribute__((visibility("default")))
#endif

#define ASR_CARD_ABI_MAJOR 1
#define ASR_CARD_ABI_MINOR 0

#define ASR_CARD_CHUNK_SAMPLES 960  /* 60 ms */
#define ASR_CARD_CHUNK_FEATURES 480 /* 6 frames of 80 normalized log-mel bands */
#define ASR_CARD_PACKET_WIDTH 32    /* values of a top-k packet, which covers 8 x 32 classes */

enum asr_card_status {
    ASR_CARD_OK = 0,
    ASR_CARD_E_ARGUMENT = 1,    /* a null pointer, a slot number out of range, an unknown option */
    ASR_CARD_E_NO_CARD = 2,     /* no card of that index */
    ASR_CARD_E_BUSY = 3,        /* another process uses the card, it loads a model, or the slot has chunks in flight */
    ASR_CARD_E_FULL = 4,        /* a queue is full: no chunk of this call was accepted; poll, then try again */
    ASR_CARD_E_STATE = 5,       /* wrong order of calls: no model loaded, slot not open, slot already open */
    ASR_CARD_E_MODEL = 6,       /* the model file is missing, truncated, corrupted, of another version or too large */
    ASR_CARD_E_MEMORY = 7,      /* the host or the card is out of memory */
    ASR_CARD_E_CAPACITY = 8,    /* more slots than the card has */
    ASR_CARD_E_UNSUPPORTED = 9, /* the library cannot do this */
    ASR_CARD_E_BAD_STATE = 10,  /* the state's bytes are damaged, or from another model or version */
    ASR_CARD_E_RESET = 11,      /* the card restarted: the states of all slots are lost */
    ASR_CARD_E_ECC = 12,        /* uncorrectable memory error: the slot's state is lost */
    ASR_CARD_E_HEAT = 13,       /* the card is too hot and computes nothing until it has cooled */
    ASR_CARD_E_LINK = 14,       /* the card cannot be reached */
    ASR_CARD_E_INTERNAL = 15    /* any other error; asr_card_last_error explains it */
};

typedef struct asr_card asr_card;

typedef struct asr_card_identity {
    uint32_t struct_size; /* in: sizeof(asr_card_identity) */
    uint32_t is_physical; /* 1 for hardware, 0 for a simulator */
    uint32_t capacity;    /* streams in real time with the loaded model; before a load, the most with any model */
    uint32_t slots_max;   /* slots that can be open at once; at least `capacity` */
    float temperature_c;
    uint32_t reserved;
    char id[64];          /* unique and permanent, e.g. of the FPGA; licenses name it */
    char serial[64];
    char firmware[64];
    char name[64];        /* product */
    char link[64];        /* e.g. "PCIe 4.0 x16 0000:3b:00.0" */
} asr_card_identity;

typedef struct asr_card_health {
    uint32_t struct_size; /* in: sizeof(asr_card_health) */
    uint32_t is_ok;       /* 0 when the card should not be used */
    float temperature_c;
    uint32_t reserved;
    uint64_t completed;       /* chunks completed without error since open */
    uint64_t errors;          /* chunks completed with an error since open */
    uint64_t ecc_errors;      /* since open, corrected ones included */
    uint64_t deadline_misses; /* chunks completed more than 60 ms after they were submitted */
    uint64_t resets;          /* restarts of the card by itself, since open */
} asr_card_health;

#define ASR_CARD_CHUNK_LAST 1u /* flag: reset the slot after this chunk, as asr_card_slot_reset does */

typedef struct asr_card_chunk {
    uint32_t slot;
    uint32_t flags; /* 0 or ASR_CARD_CHUNK_LAST */
    uint64_t tag;   /* chosen by the caller; returned in the completion */
} asr_card_chunk;

typedef struct asr_card_completion {
    uint32_t slot;
    int32_t status;  /* ASR_CARD_OK, or the reason for no result: RESET, ECC, HEAT, or a vendor's code */
    uint64_t tag;
    uint64_t step;   /* encoder steps of this slot since open or reset, before this one: 0 for the first */
    uint32_t token_offset; /* its first token in `tokens` and `log_probs` */
    uint32_t token_count;  /* 0 when only blank was decoded; at most 30 */
    uint32_t packet_offset;
    uint32_t packet_count; /* joint evaluations (token_count + 1, or 30) x n_classes / 256, with the option top_k */
} asr_card_completion;

/*
 * The largest logits of 256 classes. The 256 logits form 8 vectors of 32: value[i] is the largest of the 8 logits at
 * place i, and which[i] is the vector that holds it. So the logit is that of class 256 * packet + 32 * which[i] + i.
 */
typedef struct asr_card_packet {
    float value[ASR_CARD_PACKET_WIDTH];
    uint8_t which[ASR_CARD_PACKET_WIDTH];
} asr_card_packet;

/* The caller's buffers for asr_card_poll. If a buffer is too small for all completions, the rest follow in the next
 * call; if it is too small for one completion, the call returns ASR_CARD_E_ARGUMENT. Tokens and packets are stored
 * without gaps in the order of the completions: each offset is the sum of the counts before it, also if its own count
 * is 0, and token_count and packet_count are the sums of all. */
typedef struct asr_card_results {
    uint32_t struct_size; /* in: sizeof(asr_card_results) */
    uint32_t completion_max;
    uint32_t token_max;
    uint32_t packet_max; /* 0 without the option top_k */
    uint32_t completion_count; /* out */
    uint32_t token_count;      /* out */
    uint32_t packet_count;     /* out */
    uint32_t reserved;
    asr_card_completion *completions;
    uint32_t *tokens;     /* class numbers; blank, the last class, never appears */
    float *log_probs;     /* natural logarithm of the softmax probability of each token */
    asr_card_packet *packets;
} asr_card_results;

/* ASR_CARD_ABI_MAJOR << 16 | ASR_CARD_ABI_MINOR of the library. */
ASR_CARD_API uint32_t asr_card_abi_version(void);

/* The sentence of the calling thread's last failure, cut to `size` bytes with the zero. */
ASR_CARD_API void asr_card_last_error(char *sentence, size_t size);

/*
 * Options are "key=value,key=value"; "" or NULL for none. For an unknown key a call returns ASR_CARD_E_ARGUMENT. Every
 * library supports `top_k=0|1` (packets with each completion; default 0).
 */

/* The number of cards; 0 is no error. */
ASR_CARD_API int32_t asr_card_count(const char *options, uint32_t *count);

/* The identity of a card, without opening it. */
ASR_CARD_API int32_t asr_card_identify(uint32_t index, const char *options, asr_card_identity *identity);

/* Open a card for this process. */
ASR_CARD_API int32_t asr_card_open(uint32_t index, const char *options, asr_card **card);

/* Close a card; chunks in flight are dropped. The pointer is invalid afterwards, also after an error. */
ASR_CARD_API int32_t asr_card_close(asr_card *card);

ASR_CARD_API int32_t asr_card_get_identity(asr_card *card, asr_card_identity *identity);

/* Must also work while the card hangs, is too hot or was reset. */
ASR_CARD_API int32_t asr_card_get_health(asr_card *card, asr_card_health *health);

/* Load a compiled model (.carm). Closes no slot: ASR_CARD_E_STATE while slots are open. */
ASR_CARD_API int32_t asr_card_load(asr_card *card, const char *path);

/* Allocate slots 0 .. count-1 (none may be open). Without this call there are slots_max slots. */
ASR_CARD_API int32_t asr_card_reserve(asr_card *card, uint32_t count);

/* Open a slot in its initial state. */
ASR_CARD_API int32_t asr_card_slot_open(asr_card *card, uint32_t slot);
/* Close a slot and drop its state. ASR_CARD_E_BUSY while chunks of it are in flight; the same holds for the four
 * functions below. */
ASR_CARD_API int32_t asr_card_slot_close(asr_card *card, uint32_t slot);
/* Set a slot back to its initial state. */
ASR_CARD_API int32_t asr_card_slot_reset(asr_card *card, uint32_t slot);

/* Bytes that asr_card_state_export writes with the loaded model. */
ASR_CARD_API int32_t asr_card_state_size(asr_card *card, size_t *size);
/* Export the state of a slot, bound to the model's checksum: a card with the same model and library can import it. */
ASR_CARD_API int32_t asr_card_state_export(asr_card *card, uint32_t slot, void *state, size_t size);
ASR_CARD_API int32_t asr_card_state_import(asr_card *card, uint32_t slot, const void *state, size_t size);

/* Submit `count` chunks of open slots; pcm is [count][ASR_CARD_CHUNK_SAMPLES]. The card accepts all or none. A slot may
 * have several chunks in flight, at least 8. */
ASR_CARD_API int32_t asr_card_submit(asr_card *card, const asr_card_chunk *chunks, uint32_t count, const int16_t *pcm);

/* Like asr_card_submit, with features instead of samples, [count][6][80]: normalized log-mel frames. If a slot gets
 * both, its front end continues from the last chunk of samples. May return ASR_CARD_E_UNSUPPORTED. */
ASR_CARD_API int32_t asr_card_submit_features(asr_card *card, const asr_card_chunk *chunks, uint32_t count,
                                              const float *features);

/* Wait up to `timeout_ms` for a completion, then return all available ones; none is ASR_CARD_OK too. If the link is
 * lost during the wait, the poll ends immediately, with the available completions or, without any, ASR_CARD_E_LINK. */
ASR_CARD_API int32_t asr_card_poll(asr_card *card, uint32_t timeout_ms, asr_card_results *results);

#ifdef __cplusplus
}
#endif

#endif
