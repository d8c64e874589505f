// SPDX-License-Identifier: Apache-2.0

import { enums } from '../../../protocol/messages.ts'
import { HARDWARE, HARDWARE_MEANING } from '../../attack/setup.ts'
import { DEVICE_NAMES, extraDevice } from '../../machine/devices.ts'
import { DESCRIPTIONS } from '../../policy/builtin.ts'
import { POLICY_NAMES } from '../../policy/load.ts'
import { SERIES_STEPS } from '../../policy/policy.ts'
import { KERNELS } from '../../run/files.ts'
import { COMMAND_NAMES, EVENT_NAMES } from '../../smmu/names.ts'
import { REGISTERS } from '../../smmu/registers.ts'
import type { MachineManager } from '../machineManager.ts'
import { type lifecycle, OWN_POLICY, QMP_COMMANDS } from '../schemas/lifecycle.ts'
import type { Handlers } from '../schemas/route.ts'

export function lifecycleHandlers(manager: MachineManager, version: string): Handlers<typeof lifecycle> {
  const does = (action: () => Promise<void>) => async () => {
    await action()
    return manager.status()
  }
  return {
    'GET /info': () => ({
      version,
      policies: [...POLICY_NAMES, ...(manager.hasOwnPolicy ? [OWN_POLICY] : [])],
      stages: SERIES_STEPS,
      kernels: KERNELS,
      images: manager.images,
      translate: Object.keys(enums.translateMode),
      qmp: QMP_COMMANDS,
      registers: REGISTERS.map(({ name, offset, bits, meaning }) => ({ name, offset, bits, meaning })),
      commands: COMMAND_NAMES,
      events: EVENT_NAMES,
      hardware: HARDWARE.map(name => ({ name, meaning: HARDWARE_MEANING[name] })),
      devices: DEVICE_NAMES.map(name => ({ name, what: extraDevice(name).what })),
      quirks: [...DESCRIPTIONS].flatMap(([policy, { quirks = {} }]) =>
        Object.entries(quirks).map(([name, quirk]) => ({ policy, name, ...quirk })),
      ),
      warnings: manager.warningTable.map(({ code, section, meaning }) => ({ code, section, meaning })),
    }),
    'GET /machine': () => manager.status(),
    'POST /machine/start': async ({ body }) => {
      await manager.start(body)
      return manager.status()
    },
    'POST /machine/pause': does(() => manager.monitor.pause()),
    'POST /machine/resume': does(() => manager.monitor.resume()),
    'POST /machine/reset': does(() => manager.monitor.reset()),
    'POST /machine/power-off': does(() => manager.monitor.powerOff()),
    'POST /machine/kill': does(() => manager.kill()),
    'POST /machine/gdb': ({ body }) => manager.gdb(body.port),
    'POST /machine/qmp': async ({ body }) => ({ return: await manager.monitor.query(body.command) }),
    'GET /machine/devices': () => ({ devices: manager.hotplug?.plugged ?? [] }),
    'POST /machine/devices': ({ body }) => manager.plug(body.device),
    'DELETE /machine/devices/:name': ({ params }) => manager.unplug(params.name),
    'GET /machine/console': () => {
      const { items, next } = manager.history.console.read(0, Number.POSITIVE_INFINITY, undefined)
      return { text: items.map(({ text }) => text).join(''), next }
    },
    'POST /machine/console': ({ body }) => manager.type(body.text),
    'GET /machine/rates': () => ({ points: manager.rates.points }),
    'GET /counters': () => manager.counters(),
  }
}
