/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "edu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYSFS "/sys/bus/pci/devices"
#define DRIVERS_PROBE "/sys/bus/pci/drivers_probe"
#define EDU_ID "0x1234 0x11e8"
#define REGISTERS_SIZE (1u << 20)
#define REG_DMA_SOURCE 0x80
#define REG_DMA_TARGET 0x88
#define REG_DMA_COUNT 0x90
#define REG_DMA_COMMAND 0x98
#define DMA_START 1u
#define DMA_TO_MEMORY 2u
/* The device's own address of its buffer. */
#define BUFFER 0x40000
#define PCI_COMMAND 4
#define PCI_BASE_ADDRESS_0 0x10
#define PCI_BASE_ADDRESS_MASK (~0xfu)
#define PCI_COMMAND_MEMORY_MASTER 0x6
#define PATIENCE_MS 10000

static bool read_word(const char *device, const char *name, char *text, size_t size)
{
    char path[256];
    snprintf(path, sizeof(path), SYSFS "/%s/%s", device, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0) {
        close(fd);
    }
    if (length < 0) {
        return false;
    }
    text[length] = 0;
    text[strcspn(text, "\n")] = 0;
    return true;
}

static bool write_word(const char *device, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), SYSFS "/%s/%s", device, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

/*
 * The device answers at the address that the kernel gave it. QEMU does not save the device: in a machine that was restored, its
 * address register is as after a reset.
 */
static bool place_registers(const char *device)
{
    char path[256], ranges[128];
    unsigned long long start;
    uint32_t address;
    snprintf(path, sizeof(path), SYSFS "/%s/config", device);
    if (!read_word(device, "resource", ranges, sizeof(ranges)) || sscanf(ranges, "%llx", &start) != 1) {
        return false;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && pread(fd, &address, sizeof(address), PCI_BASE_ADDRESS_0) == sizeof(address);
    if (done && (address & PCI_BASE_ADDRESS_MASK) != start) {
        address = start;
        done = pwrite(fd, &address, sizeof(address), PCI_BASE_ADDRESS_0) == sizeof(address);
    }
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

static bool find(struct edu *edu)
{
    DIR *folder = opendir(SYSFS);
    struct dirent *entry;
    bool found = false;
    while (folder && !found && (entry = readdir(folder))) {
        char vendor[16], device[16], id[40];
        if (strlen(entry->d_name) >= sizeof(edu->device) || entry->d_name[0] == '.' ||
            !read_word(entry->d_name, "vendor", vendor, sizeof(vendor)) ||
            !read_word(entry->d_name, "device", device, sizeof(device))) {
            continue;
        }
        snprintf(id, sizeof(id), "%s %s", vendor, device);
        found = strcmp(id, EDU_ID) == 0;
        strcpy(edu->device, entry->d_name);
    }
    if (folder) {
        closedir(folder);
    }
    errno = ENODEV;
    return found;
}

static bool master_the_bus(const char *device)
{
    char path[256];
    uint16_t command = 0;
    snprintf(path, sizeof(path), SYSFS "/%s/config", device);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && pread(fd, &command, sizeof(command), PCI_COMMAND) == sizeof(command);
    command |= PCI_COMMAND_MEMORY_MASTER;
    done = done && pwrite(fd, &command, sizeof(command), PCI_COMMAND) == sizeof(command);
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

/*
 * Before Linux 6.15 a device has no IOMMU group until a driver was tried on it. The one of virtio, which every guest here has, does
 * not take this device.
 */
static bool give_group(const char *device)
{
    char type[32];
    if (read_word(device, "iommu_group/type", type, sizeof(type))) {
        return true;
    }
    int fd = open(DRIVERS_PROBE, O_WRONLY | O_CLOEXEC);
    bool tried = write_word(device, "driver_override", "virtio-pci") && fd >= 0 && write(fd, device, strlen(device)) > 0;
    if (fd >= 0) {
        close(fd);
    }
    return write_word(device, "driver_override", "\n") && tried;
}

const char *edu_open(struct edu *edu)
{
    char path[256], type[32];
    if (!find(edu)) {
        return "looking for the edu device";
    }
    if (!give_group(edu->device) || !read_word(edu->device, "iommu_group/type", type, sizeof(type)) ||
        (strcmp(type, "identity") != 0 && !write_word(edu->device, "iommu_group/type", "identity"))) {
        return "an identity domain for the edu device";
    }
    if (!place_registers(edu->device) || !write_word(edu->device, "enable", "1") || !master_the_bus(edu->device)) {
        return "enabling the edu device";
    }
    snprintf(path, sizeof(path), SYSFS "/%s/resource0", edu->device);
    int fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
    void *registers = fd < 0 ? MAP_FAILED : mmap(NULL, REGISTERS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) {
        close(fd);
    }
    if (registers == MAP_FAILED) {
        return "mapping the edu device's registers";
    }
    edu->registers = registers;
    return NULL;
}

static bool transfer(struct edu *edu, uint64_t source, uint64_t target, size_t bytes, uint64_t command)
{
    volatile uint8_t *registers = edu->registers;
    *(volatile uint64_t *)(registers + REG_DMA_SOURCE) = source;
    *(volatile uint64_t *)(registers + REG_DMA_TARGET) = target;
    *(volatile uint64_t *)(registers + REG_DMA_COUNT) = bytes;
    *(volatile uint64_t *)(registers + REG_DMA_COMMAND) = command | DMA_START;
    for (int i = 0; i < PATIENCE_MS; i++) {
        if ((*(volatile uint64_t *)(registers + REG_DMA_COMMAND) & DMA_START) == 0) {
            return true;
        }
        usleep(1000);
    }
    return false;
}

bool edu_read(struct edu *edu, uint64_t address, size_t bytes)
{
    return transfer(edu, address, BUFFER, bytes, 0);
}

bool edu_write(struct edu *edu, uint64_t address, size_t bytes)
{
    return transfer(edu, BUFFER, address, bytes, DMA_TO_MEMORY);
}
