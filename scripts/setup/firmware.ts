// SPDX-License-Identifier: Apache-2.0
import { basename, join } from 'node:path'
import { PrivateApt } from './apt.ts'
import { cachePath, entries, intact, logPath, publish } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import type { SetupOptions } from './options.ts'
import { installHostPackages } from './packages.ts'
import { run } from './run.ts'

const PACKAGE = 'qemu-efi-aarch64'
const FILE = 'QEMU_EFI.fd'

/** Returns the path of Debian's UEFI firmware (EDK2) for QEMU's virt machine; fetches it if it is not in the cache. */
export async function ensureFirmware(options: SetupOptions = {}): Promise<string> {
  const cached = await cachedFirmware()
  if (cached !== undefined) return cached
  return exclusively(options, async context => {
    await installHostPackages(context)
    const fetch = () => fetchFirmware(context)
    return (await cachedFirmware()) ?? context.progress.step('firmware', 'UEFI firmware', fetch)
  })
}

async function cachedFirmware(): Promise<string | undefined> {
  const version = (await entries(cachePath('firmware'))).at(-1)
  if (version === undefined || !(await intact(cachePath('firmware', version), FILE))) return undefined
  return cachePath('firmware', version, FILE)
}

async function fetchFirmware({ scratch, signal }: Context): Promise<string> {
  const apt = await PrivateApt.open('trixie', signal)
  const deb = await apt.download(PACKAGE, join(scratch, 'deb'))
  const unpacked = join(scratch, 'unpacked')
  await run('dpkg-deb', ['-x', deb, unpacked], { step: 'unpacking firmware', log: logPath('firmware'), signal })
  const [, version = 'unknown'] = basename(deb).split('_')
  await publish(join(unpacked, 'usr/share', PACKAGE), cachePath('firmware', version))
  return cachePath('firmware', version, FILE)
}
