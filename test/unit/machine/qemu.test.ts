// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { onlySmmuDevices, QemuProcess, qemuArguments } from '../../../server/machine/qemu.ts'
import { ownFolder } from '../../../server/machine/scratch.ts'

test.each([true, false])('QEMU is started confined, unless nobody wants that (%s)', async sandbox => {
  const folder = ownFolder(tmpdir(), 'qemu-')
  try {
    const binary = join(folder.path, 'qemu')
    writeFileSync(binary, '#!/bin/sh\ngrep NoNewPrivs /proc/self/status >&2\nprintf "%s\\n" "$@" >&2\n', {
      mode: 0o700,
    })
    const qemu = new QemuProcess({
      ...{ binary, sandbox, kernel: 'kernel', append: '', memory: '1G', smp: 1, ramFile: 'ram' },
      ...{ network: false, qmpSocket: 'qmp', extra: [] },
    })
    expect(await qemu.exited).toEqual({ code: 0, signal: null, asked: false })
    const [privileges, ...args] = qemu.errors.split('\n')
    expect(privileges).toBe(`NoNewPrivs:\t${sandbox ? 1 : 0}`)
    expect(args.join(' ')).toContain('-global fw_cfg_mem.dma_enabled=off ')
    const filter = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
    expect(args.slice(args.indexOf('-sandbox')).slice(0, 2)).toEqual(sandbox ? ['-sandbox', filter] : [''])
  } finally {
    folder.remove()
  }
})

const plain = { binary: 'qemu', sandbox: true, kernel: 'kernel', append: '', memory: '1G', smp: 1, ramFile: 'ram' }
const machine = { ...plain, network: false, qmpSocket: 'qmp', extra: [] }

test.each([
  ['to be read', false, 'local,id=share,path=/a,,b,security_model=none,readonly=on'],
  ['to be written', true, 'local,id=share,path=/a,,b,security_model=mapped-xattr,fmode=0644,dmode=0755'],
])('a folder of the host %s, behind the SMMU', (_name, writable, fsdev) => {
  const args = qemuArguments({ ...machine, share: { path: '/a,b', writable } })
  expect(args[args.indexOf('-fsdev') + 1]).toBe(fsdev)
  expect(args.find(arg => arg.startsWith('virtio-9p-pci,'))).toContain(',iommu_platform=on,')
  expect(qemuArguments(machine).join(' ')).not.toMatch(/fsdev|9p/)
})

test('what names no bus is on the first root complex, not on an expander bridge, which takes none of it', () => {
  const devices = ['-drive', 'id=d', '-device', 'virtio-blk-pci,id=a', '-device', 'nvme,id=b,bus=port']
  const args = qemuArguments({ ...machine, smmus: 2, share: { path: '/a', writable: false }, devices })
  expect(args.find(arg => arg.startsWith('virtio-9p-pci,'))).toMatch(/,bus=pcie\.0$/)
  expect(args.slice(-6)).toEqual([
    '-drive',
    'id=d',
    '-device',
    'virtio-blk-pci,id=a,bus=pcie.0',
    '-device',
    'nvme,id=b,bus=port',
  ])
})

test('the agent has the second serial port, the console the first', () => {
  const args = qemuArguments({ ...machine, agentSocket: '/a,b' })
  expect(args.filter((_, i) => args[i - 1] === '-serial')).toEqual(['chardev:console', 'chardev:agent'])
  expect(args).toContain('socket,id=agent,path=/a,,b')
  expect(qemuArguments(machine).filter(arg => arg === '-serial')).toHaveLength(1)
})

test.each([
  ['as many vCPUs as processors', 0, ''],
  ['more vCPUs than processors', 1, 'SCHED_BATCH'],
])('%s: how the kernel schedules QEMU', async (_name, more, batch) => {
  const folder = ownFolder(tmpdir(), 'qemu-')
  try {
    const binary = join(folder.path, 'qemu')
    writeFileSync(binary, '#!/bin/sh\nchrt -p $$ >&2\n', { mode: 0o700 })
    const qemu = new QemuProcess({
      ...{ binary, sandbox: true, kernel: 'kernel', append: '', memory: '1G', ramFile: 'ram' },
      ...{ smp: availableParallelism() + more, network: false, qmpSocket: 'qmp', extra: [] },
    })
    expect(await qemu.exited).toEqual({ code: 0, signal: null, asked: false })
    expect(qemu.errors.includes('SCHED_BATCH') ? 'SCHED_BATCH' : '').toBe(batch)
  } finally {
    folder.remove()
  }
})

test.each([
  ['QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)', false],
  ['QEMU emulator version 10.2.2 (Debian 1:10.2.2+ds-1)', true],
  ['QEMU emulator version 11.0.0', true],
  ['QEMU emulator version 9.2.4', false],
  ['no version', false],
])('of several SMMUs, all are devices: %s: %s', async (version, devices) => {
  const folder = ownFolder(tmpdir(), 'qemu-')
  try {
    const binary = join(folder.path, 'qemu')
    writeFileSync(binary, `#!/bin/sh\n[ "$1" = --version ] && echo '${version}'\n`, { mode: 0o700 })
    expect(await onlySmmuDevices(binary)).toBe(devices)
    expect(await onlySmmuDevices(join(folder.path, 'none'))).toBe(false)
  } finally {
    folder.remove()
  }
})

test.each([
  [1, false, ['iommu=smmuv3'], []],
  [1, true, ['iommu=smmuv3'], []],
  [2, false, ['iommu=smmuv3'], ['smmu1 pcie.1']],
  [2, true, [], ['smmu0 pcie.0', 'smmu1 pcie.1']],
])('%i SMMUs, as devices: %s', (smmus, smmuDevices, machine, devices) => {
  const args = qemuArguments({
    ...{ binary: 'qemu', sandbox: true, kernel: 'kernel', append: '', memory: '1G', smp: 1, ramFile: 'ram' },
    ...{ smmus, smmuDevices, network: true, qmpSocket: 'qmp', extra: [] },
  })
  expect(args[args.indexOf('-machine') + 1]?.split(',').filter(word => word.startsWith('iommu='))).toEqual(machine)
  expect(
    args.flatMap(
      word =>
        word
          .match(/^arm-smmuv3,id=(\w+),primary-bus=([^,]+),stage=nested$/)
          ?.slice(1)
          .join(' ') ?? [],
    ),
  ).toEqual(devices)
})

test('devices are dealt out to the root complexes, each of which has its SMMU before it has devices', () => {
  const args = qemuArguments({
    ...{ binary: 'qemu', sandbox: true, kernel: 'kernel', append: '', memory: '1G', smp: 1, ramFile: 'ram', smmus: 3 },
    ...{ network: true, qmpSocket: 'qmp', extra: [], slots: 2, firmware: 'uefi.fd' },
    virtioDisk: { path: 'a', serial: 'a' },
    nvmeDisk: { path: 'b', serial: 'b' },
  })
  const devices = args.flatMap((word, at) => (args[at - 1] === '-device' ? [word] : []))
  const short = devices.map(device => device.replace(/,(?!id=|bus|primary-bus)[^,]*/g, ''))
  expect(short).toEqual([
    ...['pxb-pcie,id=pcie.1,bus_nr=64', 'arm-smmuv3,id=smmu1,primary-bus=pcie.1'],
    ...['pxb-pcie,id=pcie.2,bus_nr=128', 'arm-smmuv3,id=smmu2,primary-bus=pcie.2'],
    ...['virtio-blk-pci,id=virtio-blk,bus=pcie.0'],
    ...['pcie-root-port,id=nvme-port,bus=pcie.1', 'nvme,id=nvme,bus=nvme-port'],
    ...['pcie-root-port,id=virtio-net-port,bus=pcie.2', 'virtio-net-pci,id=virtio-net,bus=virtio-net-port'],
    ...['e1000e,id=e1000e,bus=pcie.0'],
    ...['pcie-root-port,id=slot0,bus=pcie.0', 'pcie-root-port,id=slot1,bus=pcie.0'],
  ])
  expect(args.slice(args.indexOf('-bios')).slice(0, 2)).toEqual(['-bios', 'uefi.fd'])
})
