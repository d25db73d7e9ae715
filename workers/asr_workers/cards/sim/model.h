/* model.h - a compiled model (.carm), checked and packed for the kernels. */
#ifndef MODEL_H
#define MODEL_H

#include "frontend.h"
#include "kernels.h"

typedef enum precision { PRECISION_FP32, PRECISION_INT8, PRECISION_BFP16 } precision;

typedef struct lstm_layer {
    linear input, recurrent;
    float *bias; /* both biases added, padded */
} lstm_layer;

typedef struct dense {
    linear weights;
    float *bias;
} dense;

typedef struct model {
    uint32_t in_feats, enc_hidden, pre_layers, time_factor, post_layers;
    uint32_t pred_hidden, pred_layers, joint_hidden, classes, window_samples;
    char name[17];
    precision precision;
    uint8_t checksum[32];
    frontend front;
    lstm_layer *pre, *post, *pred;
    dense joint_enc, joint_pred, joint_net;
    float *embedding; /* [classes - 1][pred_hidden] */
} model;

/* Load a model and pack its weights for these kernels; if they are NULL, only check the file and read its sizes. */
int32_t model_load(const char *path, const kernels *k, model **loaded);
void model_free(model *m);

#endif
