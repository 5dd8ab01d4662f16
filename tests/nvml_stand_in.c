/* A stand-in for libnvidia-ml.so.1 that plays a recorded scenario, so that the real pynvml runs without a GPU.
 *
 * The file named by NVML_STAND_IN holds lines `key value`, and lines `step`. A value holds from its step on, until a
 * later step says otherwise. Each reading of a device's memory begins its next step, and the last step stays.
 * Keys of a device begin with its index: `0.used_mb 512`. A value `!15` makes NVML answer with error 15, and a key that
 * is missing with "not supported" (3). `0.compute` and `0.graphics` are lists `pid:mb`, `pid:` where the driver does
 * not say how much. `0.used_mb hang` never answers. `0.xids 13 79` are all Xids so far, each reported once, to those
 * who have registered for them on that device; `0.ecc` counts uncorrectable errors since the driver was loaded, and
 * `0.parent 1` makes device 0 a slice of device 1.
 *
 * Built with -DOLD_DRIVER it lacks the entry points that came last, as drivers before 535 do.
 */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };
enum { MAX_DEVICES = 8, LINE = 512 };

typedef struct device { int index; atomic_int readings; int reported; } *device_t; /* readings of its memory; Xids */
typedef struct { device_t device; unsigned long long type, data; unsigned int gpu_instance, compute_instance; } event_t;
typedef struct event_set { device_t device; } *event_set_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_t;
typedef struct { unsigned int version, sensor; int temperature; } temperature_t;

static struct device devices[MAX_DEVICES];

/* How many steps were played on the device that is ahead; the tests wait for it. */
int stand_in_readings(void) {
    int most = 0;
    for (int index = 0; index < MAX_DEVICES; index++)
        if (devices[index].readings > most) most = devices[index].readings;
    return most;
}

/* Writes the value of `key` after so many readings; returns the error that it stands for. */
static int look_up(const char *key, int readings, char value[LINE]) {
    FILE *file = fopen(getenv("NVML_STAND_IN"), "r");
    if (!file) abort();
    char line[LINE];
    size_t length = strlen(key);
    int step = 0, result = NOT_SUPPORTED;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "step")) {
            if (++step >= readings) break;
        } else if (!strncmp(line, key, length) && line[length] == ' ') {
            strcpy(value, line + length + 1);
            result = value[0] == '!' ? atoi(value + 1) : SUCCESS;
        }
    }
    fclose(file);
    return result;
}

static int look_up_device(device_t device, const char *name, char value[LINE]) {
    char key[LINE];
    snprintf(key, sizeof key, "%d.%s", device->index, name);
    return look_up(key, device->readings, value);
}

static int text(device_t device, const char *name, char *out, unsigned int size) {
    char value[LINE];
    int result = look_up_device(device, name, value);
    if (result == SUCCESS) snprintf(out, size, "%s", value);
    return result;
}

static int number(device_t device, const char *name, unsigned long long *out) {
    char value[LINE];
    int result = look_up_device(device, name, value);
    if (result == SUCCESS) *out = strtoull(value, NULL, 0);
    return result;
}

static int processes(device_t device, const char *name, unsigned int *count, process_t *out) {
    char value[LINE] = "";
    int result = look_up_device(device, name, value);
    unsigned int room = *count, found = 0;
    if (result != SUCCESS) return result;
    char *rest = NULL;
    for (char *word = strtok_r(value, " ", &rest); word; word = strtok_r(NULL, " ", &rest), found++) {
        if (found >= room) continue;
        char *colon = strchr(word, ':');
        out[found].pid = strtoul(word, NULL, 10);
        out[found].used = colon[1] ? strtoull(colon + 1, NULL, 10) << 20 : ~0ULL;
        out[found].gpu_instance = out[found].compute_instance = ~0U;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags) {
    char value[LINE];
    (void)flags;
    for (int index = 0; index < MAX_DEVICES; index++) devices[index].index = index;
    int result = look_up("init", 0, value);
    return result == NOT_SUPPORTED ? SUCCESS : result;
}

const char *nvmlErrorString(int result) {
    (void)result;
    return "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *out, unsigned int size) {
    char value[LINE];
    int result = look_up("driver", 0, value);
    if (result == SUCCESS) snprintf(out, size, "%s", value);
    return result;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char value[LINE];
    int result = look_up("devices", 0, value);
    if (result == SUCCESS) *count = atoi(value);
    return result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t *device) {
    unsigned int count = 0;
    int result = nvmlDeviceGetCount_v2(&count);
    if (result != SUCCESS) return result;
    if (index >= count) return INVALID_ARGUMENT;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
    char own[LINE];
    for (unsigned int index = 0; nvmlDeviceGetHandleByIndex_v2(index, device) == SUCCESS; index++)
        if (text(*device, "uuid", own, sizeof own) == SUCCESS && !strcmp(own, uuid)) return SUCCESS;
    return NOT_FOUND;
}

int nvmlDeviceGetName(device_t device, char *out, unsigned int size) { return text(device, "name", out, size); }

int nvmlDeviceGetUUID(device_t device, char *out, unsigned int size) { return text(device, "uuid", out, size); }

int nvmlDeviceGetMemoryInfo(device_t device, memory_t *out) {
    char value[LINE];
    device->readings++;
    int result = look_up_device(device, "used_mb", value);
    if (result != SUCCESS) return result;
    while (!strcmp(value, "hang")) pause();
    out->total = 80ULL << 30;
    out->used = strtoull(value, NULL, 10) << 20;
    out->free = out->total - out->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device_t device, utilization_t *out) {
    unsigned long long value = 0;
    int result = number(device, "utilisation_percent", &value);
    out->gpu = value;
    out->memory = 0;
    return result;
}

int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
    return number(device, "energy_mj", millijoules);
}

int nvmlDeviceGetPowerUsage(device_t device, unsigned int *milliwatts) {
    unsigned long long value = 0;
    int result = number(device, "power_mw", &value);
    *milliwatts = value;
    return result;
}

int nvmlEventSetCreate(event_set_t *set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(device_t device, unsigned long long types, event_set_t set) {
    char value[LINE];
    int result = look_up_device(device, "xids", value);
    if (result != SUCCESS) return result;
    if (types != 8) return INVALID_ARGUMENT; /* critical Xids */
    set->device = device;
    return SUCCESS;
}

int nvmlEventSetWait_v2(event_set_t set, event_t *event, unsigned int milliseconds) {
    char value[LINE];
    int result = look_up_device(set->device, "xids", value), number = 0;
    (void)milliseconds;
    if (result != SUCCESS) return result;
    char *rest = NULL;
    for (char *word = strtok_r(value, " ", &rest); word; word = strtok_r(NULL, " ", &rest), number++) {
        if (number < set->device->reported) continue;
        set->device->reported++;
        *event = (event_t){set->device, 8, strtoull(word, NULL, 10), ~0U, ~0U};
        return SUCCESS;
    }
    return TIMEOUT;
}

int nvmlDeviceGetTotalEccErrors(device_t device, int type, int counter, unsigned long long *out) {
    int result = number(device, "ecc", out);
    if (type != 1 || counter != 0) *out = (unsigned long long)device->readings; /* corrected ones, or of all time */
    return result;
}

int nvmlDeviceGetRetiredPagesPendingStatus(device_t device, int *pending) {
    unsigned long long value = 0;
    int result = number(device, "pages_pending", &value);
    *pending = value;
    return result;
}

int nvmlDeviceGetRemappedRows(device_t device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    unsigned long long value = 0;
    int result = number(device, "rows_failed", &value);
    *corrected = *uncorrected = *pending = 1; /* no reason not to go on */
    *failed = value;
    return result;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t slice, device_t *whole) {
    unsigned long long value = 0;
    int result = number(slice, "parent", &value);
    if (result == SUCCESS) *whole = &devices[value];
    return result == SUCCESS ? SUCCESS : INVALID_ARGUMENT;
}

#ifdef OLD_DRIVER

int nvmlDeviceGetTemperature(device_t device, unsigned int sensor, unsigned int *out) {
    unsigned long long value = 0;
    (void)sensor;
    int result = number(device, "temperature_c", &value);
    *out = value;
    return result;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *out) {
    return number(device, "throttle", out);
}

int nvmlDeviceGetComputeRunningProcesses_v2(device_t device, unsigned int *count, process_t *out) {
    return processes(device, "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(device_t device, unsigned int *count, process_t *out) {
    return processes(device, "graphics", count, out);
}

#else

int nvmlDeviceGetTemperatureV(device_t device, temperature_t *out) {
    unsigned long long value = 0;
    int result = number(device, "temperature_c", &value);
    out->temperature = value;
    return result;
}

int nvmlDeviceGetCurrentClocksEventReasons(device_t device, unsigned long long *out) {
    return number(device, "throttle", out);
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned int *count, process_t *out) {
    return processes(device, "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t device, unsigned int *count, process_t *out) {
    return processes(device, "graphics", count, out);
}

#endif
