from vlae.cli.app import main

main()
