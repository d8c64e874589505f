/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's edu device as a DMA master, driven from user space through sysfs (docs/specs/edu.rst in QEMU). */
#ifndef EDU_H
#define EDU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the device moves at once at most. */
#define EDU_BYTES 4096u

struct edu {
    char device[32];
    volatile uint8_t *registers;
};

/*
 * Finds the device, makes its IOMMU group's domain an identity one, so that an address it uses is the SMMU's IPA, and
 * lets it master the bus. Returns NULL, or what failed (with errno).
 */
const char *edu_open(struct edu *edu);

/* Memory at `address` into the device's buffer. False when it does not come to an end. Whether data came is another question. */
bool edu_read(struct edu *edu, uint64_t address, size_t bytes);
/* The device's buffer to memory. */
bool edu_write(struct edu *edu, uint64_t address, size_t bytes);

#endif
