/* A C pipeline as a user would write it: reads a frame and a heatmap, writes the network's input and the overlay. */
#include <stdio.h>
#include <stdlib.h>

#include "dkcam/kernels.h"

enum { HEIGHT = 270, WIDTH = 483, HIGH = 96, WIDE = 160, CELLS_HIGH = 3, CELLS_WIDE = 5 };

int main(int count, char **names) {
    static uint8_t frame[HEIGHT][WIDTH][3], input[HIGH][WIDE][3], out[HEIGHT][WIDTH][3];
    static float heat[CELLS_HIGH][CELLS_WIDE];
    static uint32_t table[256];
    if (count != 3) return 2;
    FILE *from = fopen(names[1], "rb"), *to = fopen(names[2], "wb");
    if (!from || !to) return 3;
    if (fread(frame, sizeof frame, 1, from) != 1 || fread(heat, sizeof heat, 1, from) != 1 || fread(table, sizeof table, 1, from) != 1) return 4;
    const dkcam_picture picture = {&frame[0][0][0], 3 * WIDTH, HEIGHT, WIDTH};
    const dkcam_target small = {&input[0][0][0], 3 * WIDE, HIGH, WIDE}, drawn = {&out[0][0][0], 3 * WIDTH, HEIGHT, WIDTH};
    const dkcam_fit fit = {HIGH, WIDE, (double)HIGH / HEIGHT, (double)WIDE / WIDTH, 0, 0};
    if (dkcam_shrink(picture, small, 2) != 0) return 5;
    if (dkcam_overlay(picture, &heat[0][0], 1, CELLS_HIGH, CELLS_WIDE, fit, table, 0, drawn, 2) != 0) return 6;
    if (dkcam_shrink(picture, drawn, 0) != -1) return 7; /* no thread */
    fwrite(input, sizeof input, 1, to);
    fwrite(out, sizeof out, 1, to);
    fclose(from);
    return fclose(to);
}
